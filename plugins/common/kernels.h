/* Launch the kernels: the C interface of libcastline_kernels.so, which knows nothing of TensorRT.
 *
 * Pointers are device memory (host memory in the emulated library). x, codes and packed are
 * 16-aligned, scales and offsets of groups aligned to two elements, all else to one. Every function
 * returns 0, or another number after it has written the reason for castline_last_error(). Nothing
 * allocates, copies, sets memory or waits: all is in stream order and can be captured into a CUDA
 * graph. But weights, and what else is the same for all tokens, may be read before the kernel that
 * precedes in the stream has ended: that one may not write them.
 */
#ifndef CASTLINE_KERNELS_H
#define CASTLINE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CASTLINE_API __attribute__((visibility("default")))
#else
#define CASTLINE_API
#endif

enum CastlineType { CASTLINE_FLOAT16 = 0, CASTLINE_BFLOAT16 = 1 };
/* How many channels kernels take: where sums fit int32, and where a token fits a block of threads. */
enum { CASTLINE_MOST_INTEGER_CHANNELS = 65536, CASTLINE_MOST_TOKEN_CHANNELS = 32768 };
/* Channels of a token and those that are added to them, together: 2 bytes each of the shared memory
 * that a block has on every GPU, 99 KB. */
enum { CASTLINE_MOST_REASSEMBLED_CHANNELS = 49152 };
enum CastlineOffsets { CASTLINE_ZERO_POINTS = 0, CASTLINE_FLOAT_OFFSETS = 1 };

/* How a product is computed. 0 leaves the choice to the library; others are of castline_tactics. */
typedef int32_t CastlineTactic;

/* Shape of y [m, n] = x [m, k] times a weight [n, k] in the packed layout. */
typedef struct {
    int32_t m, n, k;
    int32_t type;        /* CastlineType of y, of scales of weights, of bias, and of x where it is float */
    int32_t weight_bits; /* 4 or 8 */
    int32_t group;       /* input channels that share a scale: 32, 64, 128 and so on; k or more: all */
} CastlineProduct;

/* Scratch memory: `partials` may hold anything; `tickets` must be zero before its first use, and is
 * left zero. Both may be null where castline_scratch asks for no bytes. */
typedef struct {
    void* partials;
    size_t partial_bytes;
    uint32_t* tickets;
    size_t ticket_count;
} CastlineScratch;

/* y = x @ (codes * scales + offsets)^T + bias. Weight-only, groups. */
typedef struct {
    CastlineProduct shape;
    const void* x;         /* [m, k] of type */
    const int8_t* packed;  /* [strips, blocks, 512] */
    const void* scales;    /* [strips, groups, 16] of type */
    const void* offsets;   /* the same shape: int8 zero-points z, (codes - z) * scales; or float32 */
    int32_t offsets_kind;  /* CastlineOffsets */
    const void* bias;      /* [n] of type */
    void* y;               /* [m, n] of type */
} CastlineWeightOnly;

/* y = (codes - zero_point) @ (weights - weight_zero_point)^T * weight_scale * scale + bias. */
typedef struct {
    CastlineProduct shape;
    const int8_t* codes;             /* [m, k] */
    const float* scale;              /* [m] */
    const int8_t* zero_point;        /* [m], or null */
    const int8_t* packed;            /* [strips, blocks, 512 or 1024] */
    const void* weight_scale;        /* [n] of type */
    const int8_t* weight_zero_point; /* [n], or null: all are 0 */
    const int32_t* weight_sums;      /* [n] sums over k of weights - weight_zero_point; null without zero_point */
    const void* bias;                /* [n] of type */
    void* y;                         /* [m, n] of type */
    const int8_t* group_scales;      /* [strips, groups, 16]: weights are codes * group_scales; or null */
} CastlineInteger;

/* codes, scale and zero_point of each token of x, as castline.QuantizePerToken(Asymmetric). */
typedef struct {
    int32_t m, k, type, bits;
    const void* x;      /* [m, k] of type */
    int8_t* codes;      /* [m, k] */
    float* scale;       /* [m] */
    int8_t* zero_point; /* [m]; null: symmetric */
} CastlineQuantize;

/* Channels taken apart and put together, as castline.ReassembleChannels. `place` is in rising order. */
typedef struct {
    int32_t m, k, type, extras;
    const void* x;              /* [m, k] of type */
    const int32_t* gather;      /* [k] */
    const float* scale;         /* [k] */
    const int32_t* place;       /* [extras] */
    const int32_t* channel;     /* [extras] */
    const float* channel_scale; /* [extras] */
    void* y;                    /* [m, k] of type; null where a quantization takes the values */
} CastlineReassemble;

typedef void* CastlineStream; /* cudaStream_t */

CASTLINE_API const char* castline_last_error(void); /* of this thread */
CASTLINE_API const char* castline_build_info(void); /* JSON: layout_version, architectures, emulated */

/* Tactics worth timing for a product whose m reaches `max_m`; returns how many, writes up to `room`. */
CASTLINE_API int32_t castline_tactics(const CastlineProduct* shape, int32_t integer, int32_t max_m,
                                      CastlineTactic* tactics, int32_t room);
/* Bytes and tickets that a product may need for any m up to `max_m`. */
CASTLINE_API int32_t castline_scratch(const CastlineProduct* shape, int32_t integer, int32_t max_m,
                                      CastlineTactic tactic, size_t* partial_bytes, size_t* tickets);

CASTLINE_API int32_t castline_weight_only(const CastlineWeightOnly* what, CastlineTactic tactic,
                                          const CastlineScratch* scratch, CastlineStream stream);
CASTLINE_API int32_t castline_integer(const CastlineInteger* what, CastlineTactic tactic,
                                      const CastlineScratch* scratch, CastlineStream stream);
CASTLINE_API int32_t castline_quantize(const CastlineQuantize* what, CastlineStream stream);
CASTLINE_API int32_t castline_reassemble(const CastlineReassemble* what, CastlineStream stream);
CASTLINE_API int32_t castline_reassemble_quantize(const CastlineReassemble* channels,
                                                  const CastlineQuantize* what, CastlineStream stream);

#ifdef __cplusplus
}
#endif
#endif
