"""What devices speak: one file per protocol; `registry` lists those of vendors."""
