// Instruction level portable: see level.inc.
#include "kernel.h"
#define MONE_LEVEL portable
#define MONE_LANES 4
#define MONE_BF16 0
#include "level.inc"
