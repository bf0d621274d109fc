"""Results found again by what decides them: fingerprints, one store on disk and in memory, atomic writes."""
