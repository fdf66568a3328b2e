"""The thesis's methods: E²CM, pruning, CBT and EEPrune."""
