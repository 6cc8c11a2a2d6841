"""The compiled CPU kernels: C++ sources, their build, and the loader. Used through kernels.compiled only."""
