"""How figures look: style, palette, heatmaps, network shapes. Arrays in, Figure out."""
