"""Side-by-side measurements that anyone can run; their records lie in results/."""
