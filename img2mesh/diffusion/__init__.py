"""Multi-view diffusion: conditioning rows, guidance and sampling over diffusers' schedulers."""
