"""`kfjax generate` and `kfjax models`: arguments (`generate`), clips and tables (`jobs`), model names (`catalogue`)."""
