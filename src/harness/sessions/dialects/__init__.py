"""What agent programs speak: parsers and composers without I/O, one module for each protocol."""
