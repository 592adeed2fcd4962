"""Plumbing: what the method stands on and knows nothing of it: files that no kill leaves half
written, strangers' files read as data, settings and configs, tables, the hub, the data folder.
"""

__version__ = "0.1.0"  # `dinomix.__version__`; here, so that no module needs what stands above it
