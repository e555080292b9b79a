// The instruction levels of this machine.
#pragma once

#include <string>
#include <vector>

#include "kernel.h"

namespace mone {

struct Levels {
  std::vector<const Level*> usable;    // best first
  std::vector<const Level*> emulated;  // for tests
  std::vector<std::string> problems;   // of levels that the machine claims to have but fails to run, a line each
};

/** What this machine can run, found out once. */
const Levels& machineLevels();

/** The levels by number, the usable ones first; null from their end on. */
const Level* levelAt(uint32_t number);

}  // namespace mone
