// SIMD vectors and the interface to XLA's FFI.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "parallel.h"
#include "xla/ffi/api/ffi.h"

// A number in bfloat16 format: the upper half of a float.
struct bfloat16 {
  uint16_t bits;
};

// An array of a call, whose element type is not checked.
template <class Value>
struct Array : ffi::AnyBuffer {
  explicit Array(const ffi::AnyBuffer& buffer) : AnyBuffer(buffer) {}
  Value* data() const { return static_cast<Value*>(untyped_data()); }
};

// Arguments of a call from XLA. All functions share this type, because each further type adds half
// a second of compilation.
struct Call {
  ffi::RemainingArgs arrays;
  ffi::RemainingRets results;
  ffi::Dictionary attributes;

  template <class Value = float>
  Array<Value> array(size_t i) const {
    return Array<Value>(*arrays.get<ffi::AnyBuffer>(i));
  }
  template <class Value = float>
  Array<Value> result(size_t i) const {
    return Array<Value>(**results.get<ffi::AnyBuffer>(i));
  }
  int64_t integer(const char* name) const { return *attributes.get<int64_t>(name); }
  bool flag(const char* name) const { return *attributes.get<bool>(name); }
  float number(const char* name) const { return *attributes.get<float>(name); }
};

// Runs function(pool, call) as an FFI handler.
template <void function(ffi::ThreadPool&, const Call&)>
static ffi::Error handle(ffi::ThreadPool pool, ffi::RemainingArgs arrays,
                         ffi::RemainingRets results, ffi::Dictionary attributes) {
  function(pool, Call{arrays, results, attributes});
  return ffi::Error::Success();
}

// Defines flaxres_NAME_float32 and flaxres_NAME_bfloat16, FFI handlers that XLA can call, from the
// function NAME<Value>(pool, call). Value is the element type of images; all other arrays are
// float32.
#define FLAXRES_HANDLER(symbol, function) \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(          \
      symbol, handle<function>,           \
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs())
#define FLAXRES_FUNCTION(name)                            \
  FLAXRES_HANDLER(flaxres_##name##_float32, name<float>); \
  FLAXRES_HANDLER(flaxres_##name##_bfloat16, name<bfloat16>)

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
#if defined(__AVX512BF16__)
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
