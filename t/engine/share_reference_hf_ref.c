/*
 * share_reference_hf_ref.c - share_reference_hf.c with the reference kernels.
 */
#define REF_KERNELS
#include "share_reference_hf.c"
