// The cases of each file, by name.
#pragma once

typedef struct {
  const char *name;
  void (*run)(void);
  const char *need;
} Case;

extern const Case RULE_CASES[], TOPOLOGY_CASES[];
