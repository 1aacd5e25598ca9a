"""How the shipped model `shapes64` is drawn for, trained, written and scored.

drawing       scenes of coloured shapes, and the pictures of them
captions      what people may say about a scene, and what a sentence asks for
tokenizer     a byte-level CLIP tokenizer that knows every caption word
muon          the optimizer (Muon for matrices, AdamW for the rest)
crew          the training processes: shared gradients, random numbers, checkpoints
autoencoder   the KL VAE: training, and folding its latents' scale into the weights
diffusion     text encoder and U-Net: cached latents, v-prediction, averaged weights
folder        the diffusers folder that ships
sight         reads background, colour and kind off a picture, with no model at all
score         how often pictures show what their prompts ask for
"""
