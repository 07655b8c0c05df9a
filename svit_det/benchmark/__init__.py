"""Fair timing of dense against pruned: interleaved arms, fixed schedules, memory, reports."""
