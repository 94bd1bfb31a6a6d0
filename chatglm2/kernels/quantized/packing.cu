// Compression and extraction of quantized weights, compiled by NVRTC for the card in hand: no headers, no fixed
// architecture. The packed layout: a byte holds two signed 4-bit columns, the first in the high nibble.
//
// Every thread handles one 32-bit word of the packed weight: 8 columns of INT4 or 4 of INT8.

typedef unsigned short half_bits;
typedef unsigned short bfloat16_bits;

__device__ void store(float* out, float value) { *out = value; }

__device__ void store_half(half_bits* out, float value) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(*out) : "f"(value));
}

__device__ void store_bfloat16(bfloat16_bits* out, float value) {
    unsigned int bits = __float_as_uint(value);  // finite: round to nearest, ties to even
    *out = (bfloat16_bits)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

__device__ float load(const float* in) { return *in; }

__device__ float load_half(const half_bits* in) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(*in));
    return value;
}

__device__ float load_bfloat16(const bfloat16_bits* in) { return __uint_as_float((unsigned int)*in << 16); }

// values: int8 in [-8, 7], 8 a thread; packed: 4 bytes a thread.
extern "C" __global__ void compress_int4(const int2* values, unsigned int* packed, long long words) {
    long long word = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (word >= words) return;
    int2 pair = values[word];
    unsigned int result = 0;
    for (int byte = 0; byte < 4; byte++) {
        unsigned int both = (unsigned int)(byte < 2 ? pair.x : pair.y) >> (16 * (byte % 2));
        result |= (((both & 0xF) << 4) | ((both >> 8) & 0xF)) << (8 * byte);
    }
    packed[word] = result;
}

// scales: one for every group_words words of the packed weight, in order.
#define EXTRACT(NAME, TYPE, LOAD, STORE)                                                                              \
    extern "C" __global__ void extract_int4_##NAME(                                                                   \
        const int* packed, const TYPE* scales, TYPE* dense, long long words, int group_words) {                       \
        long long word = (long long)blockIdx.x * blockDim.x + threadIdx.x;                                            \
        if (word >= words) return;                                                                                    \
        int bits = packed[word];                                                                                      \
        float scale = LOAD(scales + word / group_words);                                                              \
        for (int byte = 0; byte < 4; byte++) {                                                                        \
            int both = bits << (24 - 8 * byte);                                                                       \
            STORE(dense + 8 * word + 2 * byte, (float)(both >> 28) * scale);                                          \
            STORE(dense + 8 * word + 2 * byte + 1, (float)((both << 4) >> 28) * scale);                               \
        }                                                                                                             \
    }                                                                                                                 \
    extern "C" __global__ void extract_int8_##NAME(                                                                   \
        const int* packed, const TYPE* scales, TYPE* dense, long long words, int group_words) {                       \
        long long word = (long long)blockIdx.x * blockDim.x + threadIdx.x;                                            \
        if (word >= words) return;                                                                                    \
        int bits = packed[word];                                                                                      \
        float scale = LOAD(scales + word / group_words);                                                              \
        for (int byte = 0; byte < 4; byte++)                                                                          \
            STORE(dense + 4 * word + byte, (float)((bits << (24 - 8 * byte)) >> 24) * scale);                         \
    }

EXTRACT(float32, float, load, store)
EXTRACT(float16, half_bits, load_half, store_half)
EXTRACT(bfloat16, bfloat16_bits, load_bfloat16, store_bfloat16)
