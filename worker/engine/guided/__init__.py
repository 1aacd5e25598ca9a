"""The engine for Stable Diffusion's U-Nets: each slot has its own steps, sampler and guidance."""
