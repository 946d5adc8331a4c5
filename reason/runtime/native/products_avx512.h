// Products by AVX-512's multiply-add, for processors without AMX: a block of rows times 16, 32 or 64 outputs is held in
// registers, the weights are widened to float32 as they come, each value of x is broadcast to all outputs. (On Sapphire
// Rapids the bf16 dot product has half of this throughput.)

#pragma once

#include <immintrin.h>

#include <memory>

#include "products.h"

namespace {

bool may_multiply() { return true; }

using Input = float;  // what x is multiplied as

class Multiplier {
 public:
  static void copy(const bf16* from, int64_t count, Input* to) {
    for (int64_t i = 0; i < count; i += 16) {
      const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
      _mm512_storeu_si512(to + i, _mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
    }
  }

  static const Input* all_of(const bf16* x, int64_t count) {
    thread_local std::unique_ptr<Input[]> buffer;
    thread_local int64_t size = 0;
    if (size < count) {
      buffer.reset(new Input[static_cast<size_t>(count)]);
      size = count;
    }
    copy(x, count, buffer.get());
    return buffer.get();
  }

  void strip(const Input* x, int64_t stride, int64_t rows, const bf16* w, int64_t steps, float* c) {
    const bf16* columns[] = {w, w + kTile};
    in_blocks<2, 12>(x, stride, rows, columns, kStep, steps, c, kStrip);
  }

  void two_strips(const Input* x, int64_t stride, int64_t rows, const bf16* w, int64_t steps, float* c) {
    const bf16* other = w + steps * kStep;
    float* second = c + kBlockRows * kStrip;
    if (rows > 6) {
      strip(x, stride, rows, w, steps, c);
      strip(x, stride, rows, other, steps, second);
      return;
    }
    const bf16* columns[] = {w, w + kTile, other, other + kTile};
    in_blocks<4, 6>(x, stride, rows, columns, kStep, steps, c, kStrip);
  }

  void tile(const Input* x, int64_t stride, const bf16* w, int64_t steps, float* c) {
    const bf16* columns[] = {w};
    block<1, 16>(x, stride, columns, kTile, steps, c, 16);
  }

  void tiles(const Input* x, int64_t stride, const bf16* first, const bf16* second, int64_t ahead, int64_t steps,
             float* c, int64_t width) {
    const bf16* columns[] = {first, second};
    in_blocks<2, 12>(x, stride, 2 * kTileRows, columns, ahead, steps, c, width);
  }

 private:
  static constexpr int64_t kLinesAhead = 64;

  // c [kRows, 16 * kColumns], rows `width` apart; a second pair of columns goes where two_strips wants its second
  // strip.
  template <int kColumns, int kRows>
  [[gnu::noinline]] static void block(const Input* x, int64_t stride, const bf16* const* w, int64_t ahead,
                                      int64_t steps, float* c, int64_t width) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    __m512 sums[kRows][kColumns];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < kColumns; ++i) sums[r][i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < steps; ++k) {
      for (int64_t p = 0; p < 16; ++p) {
        __m512 even[kColumns], odd[kColumns];
#pragma GCC unroll 4
        for (int i = 0; i < kColumns; ++i) {
          const bf16* line = w[i] + k * ahead + 32 * p;
          const __m512i pairs = _mm512_loadu_si512(line);
          even[i] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
          odd[i] = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
          _mm_prefetch(reinterpret_cast<const char*>(line + 32 * kLinesAhead), _MM_HINT_T0);
        }
        const Input* from = x + 32 * k + 2 * p;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const __m512 value = _mm512_set1_ps(from[r * stride]);
#pragma GCC unroll 4
          for (int i = 0; i < kColumns; ++i) sums[r][i] = _mm512_fmadd_ps(value, even[i], sums[r][i]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const __m512 value = _mm512_set1_ps(from[r * stride + 1]);
#pragma GCC unroll 4
          for (int i = 0; i < kColumns; ++i) sums[r][i] = _mm512_fmadd_ps(value, odd[i], sums[r][i]);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < kColumns; ++i)
        _mm512_storeu_ps(c + r * width + (i % 2) * 16 + (i / 2) * kBlockRows * kStrip, sums[r][i]);
  }

  // Any number of rows, in blocks of nearly equal size.
  template <int kColumns, int kMostRows>
  static void in_blocks(const Input* x, int64_t stride, int64_t rows, const bf16* const* w, int64_t ahead,
                        int64_t steps, float* c, int64_t width) {
    const int64_t blocks = (rows + kMostRows - 1) / kMostRows;
    for (int64_t b = 0, begin = 0; b < blocks; ++b) {
      const int64_t end = rows * (b + 1) / blocks;
      of_rows<kColumns, kMostRows>(x + begin * stride, stride, end - begin, w, ahead, steps, c + begin * width, width);
      begin = end;
    }
  }

  template <int kColumns, int kRows>
  static void of_rows(const Input* x, int64_t stride, int64_t rows, const bf16* const* w, int64_t ahead, int64_t steps,
                      float* c, int64_t width) {
    if (rows == kRows) {
      block<kColumns, kRows>(x, stride, w, ahead, steps, c, width);
    } else if constexpr (kRows > 1) {
      of_rows<kColumns, kRows - 1>(x, stride, rows, w, ahead, steps, c, width);
    }
  }
};

}  // namespace
