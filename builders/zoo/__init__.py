"""The models: one small file each. A file here becomes ``source: zoo/<file name>``; see docs/add-a-model.md."""
