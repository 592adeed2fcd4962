"""What serves databases larger than memory: descriptors in files, written chunk by chunk and
safely killed; search streamed from such files, in low precision first; approximate indexes."""
