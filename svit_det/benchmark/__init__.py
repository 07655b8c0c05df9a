"""Fair timing of pruned against dense: interleaved arms, fixed schedules, memory, reports."""
