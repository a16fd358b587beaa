"""Where clips and sentences come from: Common Voice, Mozilla Data Collective, the Hub, tables, one's own voice."""
