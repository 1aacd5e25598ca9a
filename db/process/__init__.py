"""What every process does alike: log lines, a page of metrics, a quick start and a quick end."""
