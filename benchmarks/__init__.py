"""Side-by-side measurements that anyone can run; their records are in results/."""
