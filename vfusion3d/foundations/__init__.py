"""The roles that pretrained models play in the paper. Code asks for a role, never for a model by name.

Each role is a function of the profile, named as the profile's key: `image_to_video`, `text_to_image`, `image_features`,
`clip`, `perceptual_distance`, `saliency`, `background_removal`, `prompt_filter`, `captioner`, `aesthetic_score`. Which
model it gets, and where from, is told in `loading.py`; how to add one, in CONTRIBUTING.md.
"""
