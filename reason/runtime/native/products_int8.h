// Products of 8-bit codes by AVX-512's VNNI. In groups of k that share a scale,
//
//   x = code * scale[row, group],  w = (code - 128) * scale[group, output],
//   sum_k x w = sum_groups scale * scale * (sum_k x_code w_code - 128 sum_k x_code)
//
// whose inner sums are exact in 32 bits; the outer one is taken in float32 and in the order of the groups, so that a
// row's result does not depend on the other rows of its batch.
//
// Weights are packed as strips of 32 outputs: codes [strip][k / 4][2][16 outputs][4], scales [strip][group][32].

#pragma once

#include <immintrin.h>

#include <cstring>
#include <memory>

#include "products.h"

namespace {

// Rows of x as codes, each group by its own largest magnitude.
class CodedRows {
 public:
  CodedRows(int64_t rows, int64_t inputs, int64_t group)
      : inputs(inputs), group(group), groups(inputs / group), codes(reserve<int8_t>(rows * inputs)),
        scales(reserve<float>(rows * groups)), offsets(reserve<int32_t>(rows * groups)) {}

  void code(const bf16* x, int64_t row) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    for (int64_t g = 0; g < groups; ++g) {
      const bf16* from = x + row * inputs + g * group;
      int8_t* to = codes + row * inputs + g * group;
      __m512i most = _mm512_setzero_si512();  // magnitudes are ordered as their bits are
      for (int64_t i = 0; i < group; i += 16) {
        most = _mm512_max_epi32(most, _mm512_and_si512(bits(from + i), magnitude));
      }
      const float top = _mm512_reduce_max_ps(_mm512_castsi512_ps(most));
      const __m512 inverse = _mm512_set1_ps(top > 0.0f ? 127.0f / top : 0.0f);
      __m512i total = _mm512_setzero_si512();
      for (int64_t i = 0; i < group; i += 16) {
        const __m512i values = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_castsi512_ps(bits(from + i)), inverse));
        total = _mm512_add_epi32(total, values);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm512_cvtsepi32_epi8(values));
      }
      scales[row * groups + g] = top / 127.0f;
      offsets[row * groups + g] = -128 * _mm512_reduce_add_epi32(total);
    }
  }

  // c [rows, 32] = rows from `begin` on times one strip.
  void times(int64_t begin, int64_t rows, const uint8_t* w, const float* w_scales, float* c) const {
    const int64_t blocks = (rows + kMostRows - 1) / kMostRows;
    for (int64_t b = 0, first = 0; b < blocks; ++b) {
      const int64_t end = rows * (b + 1) / blocks;
      of_rows<kMostRows>(begin + first, end - first, w, w_scales, c + first * kStrip);
      first = end;
    }
  }

 private:
  static constexpr int kMostRows = 12;  // 24 sums, what is multiplied and its factors fill the 32 registers
  static constexpr int64_t kBytesAhead = 4096;

  const int64_t inputs, group, groups;
  int8_t* const codes;
  float* const scales;
  int32_t* const offsets;

  // Of the calling thread, until it next asks for as many of the type.
  template <typename T>
  static T* reserve(int64_t count) {
    thread_local std::unique_ptr<T[]> buffer;
    thread_local int64_t size = 0;
    if (size < count) {
      buffer.reset(new T[static_cast<size_t>(count)]);
      size = count;
    }
    return buffer.get();
  }

  static __m512i bits(const bf16* from) {
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16);
  }

  // As _mm512_dpbusd_epi32, around which the compiler copies the sums out of their registers and back.
  static void add_products(__m512i& sum, __m512i w, __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
  }

  template <int kRows>
  [[gnu::noinline]] void block(int64_t row, const uint8_t* w, const float* w_scales, float* c) const {
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* x = codes + row * inputs + g * group;
      __m512i sums[kRows][2];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm512_set1_epi32(offsets[(row + r) * groups + g]);
      for (int64_t k = 0; k < group; k += 4, w += 128) {
        const __m512i low = _mm512_loadu_si512(w), high = _mm512_loadu_si512(w + 64);
        _mm_prefetch(reinterpret_cast<const char*>(w + kBytesAhead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(w + kBytesAhead + 64), _MM_HINT_T0);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          int32_t four;
          std::memcpy(&four, x + r * inputs + k, sizeof four);
          const __m512i value = _mm512_set1_epi32(four);
          add_products(sums[r][0], low, value);
          add_products(sums[r][1], high, value);
        }
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const __m512 w_scale = _mm512_loadu_ps(w_scales + g * kStrip + 16 * i);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          float* to = c + r * kStrip + 16 * i;
          const __m512 factor = _mm512_mul_ps(w_scale, _mm512_set1_ps(scales[(row + r) * groups + g]));
          const __m512 before = g ? _mm512_loadu_ps(to) : _mm512_setzero_ps();
          _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][i]), factor, before));
        }
      }
    }
  }

  template <int kRows>
  void of_rows(int64_t row, int64_t rows, const uint8_t* w, const float* w_scales, float* c) const {
    if (rows == kRows) {
      block<kRows>(row, w, w_scales, c);
    } else if constexpr (kRows > 1) {
      of_rows<kRows - 1>(row, rows, w, w_scales, c);
    }
  }
};

}  // namespace
