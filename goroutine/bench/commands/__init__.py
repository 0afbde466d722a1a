"""The benchmarks, one file each: `registry` finds what is in this folder."""
