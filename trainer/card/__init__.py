"""The model card of a bundle: Markdown and plots, made of figures that commands printed."""
