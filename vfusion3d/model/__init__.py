"""The feed-forward model: image -> tokens -> triplane -> field -> pictures and meshes."""
