"""Proteins as a corpus: FASTA, UniProt's flat file, TSV and JSON, GFF3, three-line label files; annotations as spans, homologs as groups.

Owns: reading, lengths, homology groups, and fetching from UniProt (`fetch`). Every residue is one character of the example's text. Nothing is
imported here: the settings of a corpus name those of proteins, whose readers name the settings of a corpus.
"""
