"""What stages leave: records, their validity, the machine that timings were taken on."""
