"""The engine over any other diffusers pipeline: a slot is the pipeline's own call for one image.

Each call runs in a greenlet and stops where it calls the denoiser. There the calls of all slots
meet and run as one forward pass of a fixed shape.

`arguments` makes a pipeline and its arguments for an image, and `slot` runs them. `shared_passes`
learns which calls may share a pass and makes it, `row_layout` puts arguments together and takes
results apart, and `engine` admits images and chooses the next pass. `stand_ins` are what a pipeline
calls instead of its own modules; those of its text encoders look into `known_texts` first.
"""
