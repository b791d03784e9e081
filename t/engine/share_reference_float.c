/*
 * share_reference_float.c - share_reference.c with the float path forced: every format against the reference.
 */
#define FLOAT_PATH
#include "share_reference.c"
