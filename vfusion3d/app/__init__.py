"""The third face of the package: a page in a browser that makes 3D assets of pictures (`vfusion3d app`)."""
