// SIMD vectors and the interface to XLA's FFI.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__) && defined(FLAXRES_BFLOAT16)
#define FLAXRES_AVX512BF16
#include <immintrin.h>  // takes a third of a second to compile
#endif

#include "parallel.h"
#include "xla_call.h"

// A number in bfloat16 format: the upper half of a float.
struct bfloat16 {
  uint16_t bits;
};

// Defines flaxres_NAME_DTYPE, a handler that XLA can call, from the function NAME<Value>(pool, call).
// Value is the element type of images; all other arrays are float32. Each type is compiled into a
// library of its own, because most runs need only one.
#if defined(FLAXRES_BFLOAT16)
#define FLAXRES_FUNCTION(name) FLAXRES_HANDLER(flaxres_##name##_bfloat16, name<bfloat16>)
#else
#define FLAXRES_FUNCTION(name) FLAXRES_HANDLER(flaxres_##name##_float32, name<float>)
#endif

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTile = 16;  // vectors of results, kept in 32 registers
#elif defined(__AVX__)
constexpr int kLanes = 8, kTile = 8;  // kept in 16 registers
#else
constexpr int kLanes = 4, kTile = 8;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint16_t HalfBits __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

// Loads and stores convert between float and the element type in memory. Stores round to the
// nearest value, and to even bits between two.
static inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
static inline Vector load(const bfloat16* p) {
  return (Vector)(__builtin_convertvector(*reinterpret_cast<const HalfBits*>(p), Bits) << 16);
}
static inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
static inline HalfBits to_bfloat16(Vector v) {
#if defined(FLAXRES_AVX512BF16)
  return (HalfBits)_mm512_cvtneps_pbh((__m512)v);
#else
  const Bits bits = (Bits)v;
  const Bits rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const Bits nan = bits >> 16 | 0x40;  // stays a NaN without the lower half
  return __builtin_convertvector(v == v ? rounded : nan, HalfBits);
#endif
}
static inline void store(bfloat16* p, Vector v) {
  *reinterpret_cast<HalfBits*>(p) = to_bfloat16(v);
}

static inline void convert(float x, float& to) { to = x; }
static inline void convert(bfloat16 x, bfloat16& to) { to = x; }
static inline void convert(bfloat16 x, float& to) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  std::memcpy(&to, &bits, sizeof to);
}
