/* One loop, compiled for several vector widths and chosen when the program starts. No width changes a result:
 * the order of every sum is written out, and multiply-adds are not fused. Sanitizers cannot run the
 * resolvers, which come before their own start. */
#ifndef WEFT_LAUNCH_DECODER_CLONES_H
#define WEFT_LAUNCH_DECODER_CLONES_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&     \
    !defined(__SANITIZE_THREAD__)
#define DECODER_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define DECODER_VECTOR_CLONES
#endif

#endif
