"""Was ``meta_baseline``, the tools that set a meta-learned network beside a plainly trained one."""
