// The decode step's small-batch kernels for CPUs with AVX-512 and bf16: products against weights that stream from
// memory once, with what follows a product (bias, residual, SwiGLU) in its epilogue; RMSNorm; rotary embedding with the
// KV write; attention of single rows, and of many rows over one run; statistics of rows of logits.
//
// Weights are packed as strips of 32 outputs: [strip][k / 32][tile 0..1][16 pairs of k][16 outputs][2], so that a strip
// is one sequential stream. C tiles: 16 or 32 rows by 32 outputs, float32. Callers check shapes; see kernels.py.

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "products.h"
#if defined(__AMX_BF16__) && !defined(REASON_NO_AMX)
#include "products_amx.h"
#else
#include "products_avx512.h"
#endif
#include "products_int8.h"
#include "team.h"

namespace {

std::atomic<int> threads{1};  // of every kernel

constexpr int64_t kManyRows = 64;  // from here on waking the other threads pays for what is done row by row

enum Epilogue { kNone = 0, kAdd = 1, kGate = 2 };

inline __m512 load_bf16(const bf16* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}

inline __m512 load(const bf16* p) { return load_bf16(p); }

inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }

inline void store_bf16(bf16* p, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
}

inline void store(bf16* p, __m512 x) { store_bf16(p, x); }

inline void store(float* p, __m512 x) { _mm512_storeu_ps(p, x); }

// exp(x) to about 2 ulp: 2^n * e^r, |r| <= ln(2) / 2, e^r by a polynomial.
inline __m512 exp_ps(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(88.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

inline __m512 silu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(x, _mm512_add_ps(one, exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// One row of a finished strip: bias, residual or gate, and rounding.
inline void finish(const float* c, int64_t strip, int epilogue, const bf16* bias, const bf16* other, bf16* out) {
  __m512 low = _mm512_load_ps(c), high = _mm512_load_ps(c + 16);
  if (epilogue == kGate) {  // the strip holds 16 gates, then their 16 ups
    store_bf16(out + strip * 16, _mm512_mul_ps(silu(low), high));
    return;
  }
  const int64_t at = strip * kStrip;
  if (bias) {
    low = _mm512_add_ps(low, load_bf16(bias + at));
    high = _mm512_add_ps(high, load_bf16(bias + at + 16));
  }
  if (epilogue == kAdd) {
    low = _mm512_add_ps(low, load_bf16(other + at));
    high = _mm512_add_ps(high, load_bf16(other + at + 16));
  }
  store_bf16(out + at, low);
  store_bf16(out + at + 16, high);
}

// The slots of a branch lie apart, so the hardware does not guess where the next row is.
template <_mm_hint kHint>
inline void fetch_row(const bf16* row, int64_t dim) {
  for (int64_t i = 0; i < dim; i += 32) _mm_prefetch(reinterpret_cast<const char*>(row + i), kHint);
}

// scores [keys, 16] (16 query heads, padded) = keys of one head times its queries, unscaled.
// query [heads, dim]; slots [count]; pairs: scratch for the queries in tile order; block: scratch [16, dim]. The values
// are put on their way into the second-level cache.
void score_keys(Multiplier& multiplier, const bf16* query, int64_t heads, const bf16* keys, const bf16* values,
                int64_t stride, const int64_t* slots, int64_t count, int64_t dim, bf16* pairs, Input* block,
                float* scores) {
  const int64_t steps = dim / 32;
  std::memset(pairs, 0, static_cast<size_t>(dim) * 16 * sizeof(bf16));
  for (int64_t h = 0; h < heads; ++h) {
    const auto* words = reinterpret_cast<const uint32_t*>(query + h * dim);
    for (int64_t p = 0; p < dim / 2; ++p) reinterpret_cast<uint32_t*>(pairs)[p * 16 + h] = words[p];
  }
  for (int64_t j = 0; j < count; j += kTileRows) {
    const int64_t rows = count - j < kTileRows ? count - j : kTileRows;
    const int64_t ahead = count - j < 3 * kTileRows ? count : j + 3 * kTileRows;
    for (int64_t next = j + 2 * kTileRows; next < ahead; ++next) {
      fetch_row<_MM_HINT_T0>(keys + slots[next] * stride, dim);
    }
    for (int64_t r = j; r < j + rows; ++r) fetch_row<_MM_HINT_T1>(values + slots[r] * stride, dim);
    for (int64_t r = 0; r < rows; ++r) Multiplier::copy(keys + slots[j + r] * stride, dim, block + r * dim);
    multiplier.tile(block, dim, pairs, steps, scores + j * 16);
  }
}

constexpr int64_t kAhead = 24;  // keys whose values are on their way

// out [heads, dim] columns column .. column + 63 = sum over keys of weights [keys, 16] times values, over sums.
template <int kHeads>
void weigh_values(const float* weights, const bf16* values, int64_t value_stride, const int64_t* slots, int64_t count,
                  int64_t dim, int64_t column, float* out) {
  __m512 total[kHeads][4];
  for (int h = 0; h < kHeads; ++h)
    for (int i = 0; i < 4; ++i) total[h][i] = _mm512_setzero_ps();
  for (int64_t j = 0; j < count; ++j) {
    const bf16* row = values + slots[j] * value_stride + column;
    if (j + kAhead < count) fetch_row<_MM_HINT_T0>(values + slots[j + kAhead] * value_stride + column, 64);
    const __m512 v[4] = {load_bf16(row), load_bf16(row + 16), load_bf16(row + 32), load_bf16(row + 48)};
    for (int h = 0; h < kHeads; ++h) {
      const __m512 w = _mm512_set1_ps(weights[j * 16 + h]);
      for (int i = 0; i < 4; ++i) total[h][i] = _mm512_fmadd_ps(w, v[i], total[h][i]);
    }
  }
  for (int h = 0; h < kHeads; ++h)
    for (int i = 0; i < 4; ++i) _mm512_store_ps(out + h * dim + column + 16 * i, total[h][i]);
}

using WeighValues = void (*)(const float*, const bf16*, int64_t, const int64_t*, int64_t, int64_t, int64_t, float*);
constexpr WeighValues kWeighValues[] = {nullptr,         weigh_values<1>, weigh_values<2>, weigh_values<3>,
                                        weigh_values<4>, weigh_values<5>, weigh_values<6>, weigh_values<7>};
constexpr int64_t kMaxHeads = 7;  // 7 * 4 sums and 4 values fill the 32 registers

// One run's keys of one head in tile order: [keys / 16][dim / 32][16 pairs of dim][16 keys][2]; missing keys are 0.
void pack_keys(const bf16* keys, int64_t stride, const int64_t* slots, int64_t count, int64_t dim, int64_t block,
               uint32_t* packed) {
  const int64_t steps = dim / 32, first = 16 * block, some = count - first < 16 ? count - first : 16;
  uint32_t* tiles = packed + block * steps * 256;
  std::memset(tiles, 0, static_cast<size_t>(steps) * 1024);
  for (int64_t j = 0; j < some; ++j) {
    const auto* words = reinterpret_cast<const uint32_t*>(keys + slots[first + j] * stride);
    for (int64_t p = 0; p < dim / 2; ++p) tiles[(p / 16) * 256 + (p % 16) * 16 + j] = words[p];
  }
}

// Its values: [keys / 32][dim / 16][16 pairs of keys][16 of dim][2].
void pack_values(const bf16* values, int64_t stride, const int64_t* slots, int64_t count, int64_t dim, int64_t block,
                 bf16* packed) {
  const int64_t first = 32 * block;
  bf16* tiles = packed + block * (dim / 16) * 512;
  for (int64_t p = 0; p < 16; ++p) {
    const int64_t at = first + 2 * p;
    const bf16* even = at < count ? values + slots[at] * stride : nullptr;
    const bf16* odd = at + 1 < count ? values + slots[at + 1] * stride : nullptr;
    for (int64_t d = 0; d < dim; d += 16) {
      const auto load = [&](const bf16* row) {
        if (!row) return _mm512_setzero_si512();
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + d)));
      };
      const __m512i both = _mm512_or_si512(load(even), _mm512_slli_epi32(load(odd), 16));
      _mm512_storeu_si512(tiles + (d / 16) * 512 + p * 32, both);
    }
  }
}

// One row's scores [width], of which the first count are seen, to weights exp(scale * (score - top)) [width], 0 where
// nothing is seen; returns their sum, and scale * top.
inline float to_weights(const float* scores, int64_t count, int64_t width, float scale, Input* weights, float* shift) {
  float top = -std::numeric_limits<float>::infinity();
  __m512 tops = _mm512_set1_ps(top);
  const int64_t whole = count / 16 * 16;
  const __mmask16 rest = static_cast<__mmask16>((1u << (count - whole)) - 1u);
  for (int64_t j = 0; j < whole; j += 16) tops = _mm512_max_ps(tops, _mm512_loadu_ps(scores + j));
  if (rest) tops = _mm512_mask_max_ps(tops, rest, tops, _mm512_maskz_loadu_ps(rest, scores + whole));
  top = _mm512_reduce_max_ps(tops);
  const __m512 factor = _mm512_set1_ps(scale), by = _mm512_set1_ps(top);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t j = 0; j < width; j += 16) {
    __m512 w = _mm512_setzero_ps();
    if (j < count) {
      w = exp_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + j), by), factor));
      if (j >= whole) w = _mm512_maskz_mov_ps(rest, w);
    }
    sum = _mm512_add_ps(sum, w);
    store(weights + j, w);
  }
  *shift = scale * top;
  return _mm512_reduce_add_ps(sum);
}

// Merges a part (its weighted values, not yet divided by their sum, and its log-sum-exp) into what a row has; one whose
// log-sum-exp is -inf has nothing yet, whatever stands there.
inline void merge_row(const float* part, float sum, float part_lse, int64_t dim, float* out, float* lse) {
  const float mine = *lse, top = mine > part_lse ? mine : part_lse;
  if (mine == -__builtin_inff()) {
    const __m512 all = _mm512_set1_ps(1.0f / sum);
    for (int64_t d = 0; d < dim; d += 16) _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(part + d), all));
    *lse = part_lse;
    return;
  }
  const float total = top + __builtin_logf(__builtin_expf(mine - top) + __builtin_expf(part_lse - top));
  const __m512 keep = _mm512_set1_ps(__builtin_expf(mine - total));
  const __m512 take = _mm512_set1_ps(__builtin_expf(part_lse - total) / sum);
  for (int64_t d = 0; d < dim; d += 16) {
    const __m512 added = _mm512_mul_ps(_mm512_loadu_ps(part + d), take);
    _mm512_storeu_ps(out + d, _mm512_fmadd_ps(_mm512_loadu_ps(out + d), keep, added));
  }
  *lse = total;
}

// 32 values as float, in any order.
inline void load_32(const bf16* p, __m512* x) {
  const __m512i pairs = _mm512_loadu_si512(p);
  x[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  x[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline void load_32(const float* p, __m512* x) {
  x[0] = _mm512_loadu_ps(p);
  x[1] = _mm512_loadu_ps(p + 16);
}

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// 2^x to about 2e-7: 2^floor(x) times a polynomial in the rest.
inline __m512 exp2_ps(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, 1);  // x - floor(x)
  __m512 p = _mm512_set1_ps(1.8775764852e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.9893405504e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5826317667e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4015361717e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9315307319e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.9999992506e-1f));
  return _mm512_scalef_ps(p, x);
}

inline double sum(__m512 x) {
  return _mm512_reduce_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x))) +
         _mm512_reduce_add_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
}

// Sums over columns of one row of y = log2(e) x - shift: float in registers, double between blocks.
struct RowSums {
  double weights = 0.0;   // of 2^y
  double weighted = 0.0;  // of 2^y * y
  double plain = 0.0;     // of y
};

constexpr float kLog2e = 1.44269504f;
constexpr double kLog2 = 1.0 / static_cast<double>(kLog2e);
constexpr float kLeast = -126.0f;  // 2^y of anything below counts as this: no denormals, no 0 * inf
constexpr int64_t kBlock = 4096;

template <typename T>
RowSums row_sums(const T* row, int64_t width, float shift) {
  RowSums sums;
  const __m512 least = _mm512_set1_ps(kLeast), factor = _mm512_set1_ps(kLog2e), shifts = _mm512_set1_ps(shift);
  const int64_t whole = width / 32 * 32;
  for (int64_t begin = 0; begin < whole; begin += kBlock) {
    const int64_t end = whole - begin < kBlock ? whole : begin + kBlock;
    __m512 weights[2] = {}, weighted[2] = {}, plain[2] = {};
    for (int64_t i = begin; i < end; i += 32) {
      __m512 x[2];
      load_32(row + i, x);
      for (int k = 0; k < 2; ++k) {
        const __m512 y = _mm512_fmsub_ps(x[k], factor, shifts);
        plain[k] = _mm512_add_ps(plain[k], y);
        const __m512 bounded = _mm512_max_ps(y, least), w = exp2_ps(bounded);
        weights[k] = _mm512_add_ps(weights[k], w);
        weighted[k] = _mm512_fmadd_ps(w, bounded, weighted[k]);
      }
    }
    for (int k = 0; k < 2; ++k) {
      sums.weights += sum(weights[k]);
      sums.weighted += sum(weighted[k]);
      sums.plain += sum(plain[k]);
    }
  }
  for (int64_t i = whole; i < width; ++i) {
    const float y = std::fma(to_float(row[i]), kLog2e, -shift);
    const double bounded = y > kLeast ? y : kLeast, w = std::exp2(bounded);
    sums.weights += w;
    sums.weighted += w * bounded;
    sums.plain += y;
  }
  return sums;
}

template <typename T>
float row_maximum(const T* row, int64_t width) {
  float top = -std::numeric_limits<float>::infinity();
  __m512 tops[2] = {_mm512_set1_ps(top), _mm512_set1_ps(top)};
  const int64_t whole = width / 32 * 32;
  for (int64_t i = 0; i < whole; i += 32) {
    __m512 x[2];
    load_32(row + i, x);
    for (int k = 0; k < 2; ++k) tops[k] = _mm512_max_ps(tops[k], x[k]);
  }
  top = _mm512_reduce_max_ps(_mm512_max_ps(tops[0], tops[1]));
  for (int64_t i = whole; i < width; ++i) top = to_float(row[i]) > top ? to_float(row[i]) : top;
  return top;
}

// (log-sum-exp, entropy, KL(uniform || p)) of one row; see reason_row_statistics.
template <typename T>
void row_statistics(const T* row, int64_t width, float* out) {
  const float top = row_maximum(row, width), shift = top * kLog2e;
  RowSums sums = row_sums(row, width, shift);
  int64_t count = width;
  if (!std::isfinite(sums.plain)) {  // rare: something is -inf
    sums.plain = 0.0;
    count = 0;
    bool broken = !std::isfinite(top);
    for (int64_t i = 0; i < width; ++i) {
      const float x = to_float(row[i]);
      broken |= std::isnan(x);
      if (x > -std::numeric_limits<float>::infinity()) {
        sums.plain += static_cast<double>(x) * kLog2e - shift;
        ++count;
      }
    }
    if (broken) {
      out[0] = out[1] = out[2] = std::numeric_limits<float>::quiet_NaN();
      return;
    }
  }
  const double log_weights = std::log2(sums.weights);
  const double entropy = kLog2 * (log_weights - sums.weighted / sums.weights);
  const double certainty =
      kLog2 * (log_weights - sums.plain / static_cast<double>(count)) - std::log(static_cast<double>(count));
  out[0] = static_cast<float>(kLog2 * (log_weights + shift));
  out[1] = static_cast<float>(entropy > 0.0 ? entropy : 0.0);
  out[2] = static_cast<float>(certainty > 0.0 ? certainty : 0.0);
}

constexpr int64_t kMaximaBlock = 128;

// The maximum of each 128 columns; returns that of the row.
template <typename T>
float block_maxima(const T* row, int64_t width, float* maxima) {
  float top = -std::numeric_limits<float>::infinity();
  for (int64_t begin = 0, block = 0; begin < width; begin += kMaximaBlock, ++block) {
    float most = -std::numeric_limits<float>::infinity();
    if (begin + kMaximaBlock <= width) {
      __m512 tops[2] = {_mm512_set1_ps(most), _mm512_set1_ps(most)};
      for (int64_t i = begin; i < begin + kMaximaBlock; i += 32) {
        __m512 x[2];
        load_32(row + i, x);
        for (int k = 0; k < 2; ++k) tops[k] = _mm512_max_ps(tops[k], x[k]);
      }
      most = _mm512_reduce_max_ps(_mm512_max_ps(tops[0], tops[1]));
    } else {
      for (int64_t i = begin; i < width; ++i) most = to_float(row[i]) > most ? to_float(row[i]) : most;
    }
    maxima[block] = most;
    top = most > top ? most : top;
  }
  return top;
}

// log sum_i exp(scale * row[i]), and the maxima of the blocks.
template <typename T>
double row_mass(const T* row, int64_t width, float scale, float* maxima) {
  const float top = block_maxima(row, width, maxima);
  const float factor = scale * kLog2e, shift = top * factor;
  const __m512 least = _mm512_set1_ps(kLeast), factors = _mm512_set1_ps(factor), shifts = _mm512_set1_ps(shift);
  const int64_t whole = width / 32 * 32;
  double total = 0.0;
  for (int64_t begin = 0; begin < whole; begin += kBlock) {
    const int64_t end = whole - begin < kBlock ? whole : begin + kBlock;
    __m512 weights[2] = {};
    for (int64_t i = begin; i < end; i += 32) {
      __m512 x[2];
      load_32(row + i, x);
      for (int k = 0; k < 2; ++k) {
        const __m512 y = _mm512_fmsub_ps(x[k], factors, shifts);
        weights[k] = _mm512_add_ps(weights[k], exp2_ps(_mm512_max_ps(y, least)));
      }
    }
    total += sum(weights[0]) + sum(weights[1]);
  }
  for (int64_t i = whole; i < width; ++i) {
    const float y = std::fma(to_float(row[i]), factor, -shift);
    total += std::exp2(y > kLeast ? y : kLeast);
  }
  return kLog2 * (std::log2(total) + shift);
}

// Numbers as integers of the same order, in which NaN has a place too and -0 is 0.
inline __m512i ordered(__m512 x) {
  const __m512i bits = _mm512_castps_si512(_mm512_add_ps(x, _mm512_setzero_ps()));
  return _mm512_xor_si512(bits, _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1));
}

inline int32_t ordered(float x) {
  x += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits ^ (bits < 0 ? 0x7fffffff : 0);
}

inline float of_ordered(int32_t key) {
  const int32_t bits = key ^ (key < 0 ? 0x7fffffff : 0);
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// One number for a column's place among the largest: its value, then the lower column.
inline uint64_t rank_of(int32_t key, int64_t column) {
  return static_cast<uint64_t>(static_cast<uint32_t>(key) ^ 0x80000000u) << 32 | ~static_cast<uint32_t>(column);
}

// The ranks of all columns of at least `least` in the blocks whose maximum is.
template <typename T>
void ranks_from(const T* row, int64_t width, const std::vector<int32_t>& maxima, int32_t least,
                std::vector<uint64_t>& ranks) {
  ranks.clear();
  for (int64_t begin = 0, block = 0; begin < width; begin += kMaximaBlock, ++block) {
    if (maxima[static_cast<size_t>(block)] < least) continue;
    if (begin + kMaximaBlock > width) {
      for (int64_t i = begin; i < width; ++i) {
        if (const int32_t key = ordered(to_float(row[i])); key >= least) ranks.push_back(rank_of(key, i));
      }
      continue;
    }
    for (int64_t i = begin; i < begin + kMaximaBlock; i += 16) {
      alignas(64) int32_t keys[16];
      const __m512i all = ordered(load(row + i));
      _mm512_store_si512(keys, all);
      for (uint32_t found = _mm512_cmpge_epi32_mask(all, _mm512_set1_epi32(least)); found; found &= found - 1) {
        const int lane = __builtin_ctz(found);
        ranks.push_back(rank_of(keys[lane], i + lane));
      }
    }
  }
}

// The `size` largest columns in order, equal ones by column. Those lie in the `size` blocks with the largest maxima, and
// are no less than the least of these.
template <typename T>
void row_top(const T* row, int64_t width, const float* maxima, int64_t size, float* values, int64_t* columns) {
  thread_local std::vector<int32_t> keys, sorted;
  thread_local std::vector<uint64_t> ranks;
  const int64_t blocks = (width + kMaximaBlock - 1) / kMaximaBlock;
  int32_t least = std::numeric_limits<int32_t>::min();
  keys.resize(static_cast<size_t>(blocks));
  for (int64_t b = 0; b < blocks; ++b) keys[static_cast<size_t>(b)] = ordered(maxima[b]);
  if (blocks > size) {
    sorted = keys;
    std::nth_element(sorted.begin(), sorted.begin() + (size - 1), sorted.end(), std::greater<>());
    least = sorted[static_cast<size_t>(size - 1)];
  }
  ranks_from(row, width, keys, least, ranks);
  if (static_cast<int64_t>(ranks.size()) < size) {  // a maximum that was not one: there is a NaN
    ranks_from(row, width, keys, std::numeric_limits<int32_t>::min(), ranks);
  }
  std::partial_sort(ranks.begin(), ranks.begin() + size, ranks.end(), std::greater<>());
  for (int64_t i = 0; i < size; ++i) {
    const uint64_t rank = ranks[static_cast<size_t>(i)];
    values[i] = of_ordered(static_cast<int32_t>(static_cast<uint32_t>(rank >> 32) ^ 0x80000000u));
    columns[i] = static_cast<int64_t>(~static_cast<uint32_t>(rank));
  }
}

// The log-sum-exp of a scaled row, and its top.
template <typename T>
double row_head(const T* row, int64_t width, float scale, int64_t size, float* values, int64_t* columns) {
  thread_local std::vector<float> maxima;
  maxima.resize(static_cast<size_t>((width + kMaximaBlock - 1) / kMaximaBlock));
  const double mass = row_mass(row, width, scale, maxima.data());
  row_top(row, width, maxima.data(), size, values, columns);
  return mass;
}

// Calls work(row) for each row, in all threads if there are `many`.
template <typename Work>
void for_rows(int64_t rows, bool many, const Work& work) {
  in_threads(many ? threads.load() : 1, [&](const Member& member) {
    const auto part = member.part(rows);
    for (int64_t r = part.begin; r < part.end; ++r) work(r);
  });
}

}  // namespace

extern "C" {

// Once before anything else; 1 if the kernels may be used.
int reason_native_init() { return may_multiply(); }

void reason_native_threads(int count) { threads = count; }

// out [rows, outputs] (kGate: [rows, outputs / 2]) = epilogue(x [rows, inputs] w^T + bias).
void reason_linear(const bf16* x, const bf16* w, const bf16* bias, const bf16* other, bf16* out, int64_t rows,
                   int64_t outputs, int64_t inputs, int epilogue) {
  const int64_t strips = outputs / kStrip, steps = inputs / 32;
  const int64_t width = epilogue == kGate ? outputs / 2 : outputs;
  const Input* input = Multiplier::all_of(x, rows * inputs);
  const auto finish_rows = [&](const float* c, int64_t strip, int64_t begin, int64_t count) {
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = begin + r;
      finish(c + r * kStrip, strip, epilogue, bias, other ? other + row * outputs : nullptr, out + row * width);
    }
  };
  in_threads(threads, [&](const Member& member) {
    alignas(64) float c[2 * kBlockRows * kStrip];
    Multiplier multiplier;
    if (rows <= kTileRows) {
      const auto part = member.part((strips + 1) / 2);
      for (int64_t pair = part.begin; pair < part.end; ++pair) {
        const int64_t s = 2 * pair;
        const bf16* strip = w + s * steps * kStep;
        if (s + 1 < strips) {
          multiplier.two_strips(input, inputs, rows, strip, steps, c);
          finish_rows(c + kBlockRows * kStrip, s + 1, 0, rows);
        } else {
          multiplier.strip(input, inputs, rows, strip, steps, c);
        }
        finish_rows(c, s, 0, rows);
      }
    } else {
      const auto part = member.part(strips);
      for (int64_t s = part.begin; s < part.end; ++s) {
        for (int64_t begin = 0; begin < rows; begin += kBlockRows) {
          const int64_t count = rows - begin < kBlockRows ? rows - begin : kBlockRows;
          multiplier.strip(input + begin * inputs, inputs, count, w + s * steps * kStep, steps, c);
          finish_rows(c, s, begin, count);
        }
      }
    }
  });
}

// The same for weights of 8-bit codes w and their scales, of which `group` inputs share one; see products_int8.h.
void reason_linear_int8(const bf16* x, const uint8_t* w, const float* scales, const bf16* bias, const bf16* other,
                        bf16* out, int64_t rows, int64_t outputs, int64_t inputs, int64_t group, int epilogue) {
  const int64_t width = epilogue == kGate ? outputs / 2 : outputs;
  CodedRows coded(rows, inputs, group);
  in_threads(threads, [&](const Member& member) {
    alignas(64) float c[kBlockRows * kStrip];
    const auto own = member.part(rows), part = member.part(outputs / kStrip);
    for (int64_t r = own.begin; r < own.end; ++r) coded.code(x, r);
    member.meet();
    for (int64_t s = part.begin; s < part.end; ++s) {
      for (int64_t begin = 0; begin < rows; begin += kBlockRows) {
        const int64_t count = rows - begin < kBlockRows ? rows - begin : kBlockRows;
        coded.times(begin, count, w + s * kStrip * inputs, scales + s * kStrip * (inputs / group), c);
        for (int64_t r = 0; r < count; ++r) {
          const int64_t row = begin + r;
          finish(c + r * kStrip, s, epilogue, bias, other ? other + row * outputs : nullptr, out + row * width);
        }
      }
    }
  });
}

// out [rows, width] = x / rms(x) * weight
void reason_rms_norm(const bf16* x, const bf16* weight, bf16* out, int64_t rows, int64_t width, float eps) {
  for_rows(rows, rows >= kManyRows, [&](int64_t r) {
    const bf16* row = x + r * width;
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 v = load_bf16(row + i);
      sum = _mm512_fmadd_ps(v, v, sum);
    }
    const float mean = _mm512_reduce_add_ps(sum) / static_cast<float>(width);
    const __m512 scale = _mm512_set1_ps(1.0f / __builtin_sqrtf(mean + eps));
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 v = _mm512_mul_ps(load_bf16(row + i), scale);
      store_bf16(out + r * width + i, _mm512_mul_ps(v, load_bf16(weight + i)));
    }
  });
}

// Splits qkv [rows, heads + 2 * kv_heads, dim]; rotates q into query [rows, heads, dim] and k into its slot of keys;
// copies v into its slot of values. cos and sin are tables [positions, dim], sin negated in its first half.
void reason_rotate_and_write(const bf16* qkv, const bf16* cos, const bf16* sin, const int64_t* positions,
                             const int64_t* slots, bf16* query, bf16* keys, bf16* values, int64_t rows, int64_t heads,
                             int64_t kv_heads, int64_t dim) {
  const int64_t half = dim / 2, all = heads + 2 * kv_heads;
  for_rows(rows, rows >= kManyRows, [&](int64_t r) {
    const bf16* c = cos + positions[r] * dim;
    const bf16* s = sin + positions[r] * dim;
    for (int64_t h = 0; h < heads + kv_heads; ++h) {
      const bf16* in = qkv + (r * all + h) * dim;
      bf16* out = h < heads ? query + (r * heads + h) * dim : keys + (slots[r] * kv_heads + h - heads) * dim;
      for (int64_t i = 0; i < half; i += 16) {
        const __m512 a = load_bf16(in + i), b = load_bf16(in + half + i);
        store_bf16(out + i, _mm512_fmadd_ps(b, load_bf16(s + i), _mm512_mul_ps(a, load_bf16(c + i))));
        store_bf16(out + half + i,
                   _mm512_fmadd_ps(a, load_bf16(s + half + i), _mm512_mul_ps(b, load_bf16(c + half + i))));
      }
    }
    std::memcpy(values + slots[r] * kv_heads * dim, qkv + (r * all + heads + kv_heads) * dim,
                static_cast<size_t>(kv_heads * dim) * sizeof(bf16));
  });
}

// Attention of single rows, each over keys of its own: out [batch, heads, dim], lse [batch, heads].
// query [*, heads, dim] is read at rows[b] (b where rows is null); slots [batch, width], the first lengths[b] of each
// count.
// At most 16 query heads to a key head; dim a multiple of 64, at most 256.
void reason_attend(const bf16* query, const int64_t* rows, const bf16* keys, const bf16* values, const int64_t* slots,
                   const int64_t* lengths, bf16* out, float* merged, float* lse, int64_t batch, int64_t width,
                   int64_t heads, int64_t kv_heads, int64_t dim, float scale) {
  const int64_t groups = heads / kv_heads, stride = kv_heads * dim;
  in_threads(threads, [&](const Member& member) {
    alignas(64) bf16 pairs[256 * 16];
    alignas(64) Input block[16 * 256];
    alignas(64) float mixed[16 * 256];
    auto* scores = static_cast<float*>(_mm_malloc(static_cast<size_t>(width + 16) * 16 * sizeof(float), 64));
    Multiplier multiplier;
    const auto part = member.part(batch * kv_heads);
    for (int64_t task = part.begin; task < part.end; ++task) {
      const int64_t b = task / kv_heads, kv = task % kv_heads, count = lengths[b];
      const int64_t* places = slots + b * width;
      const int64_t row = rows ? rows[b] : b;
      const bf16* q = query + (row * heads + kv * groups) * dim;
      score_keys(multiplier, q, groups, keys + kv * dim, values + kv * dim, stride, places, count, dim, pairs, block,
                 scores);
      __m512 top = _mm512_set1_ps(-3.0e38f), sum = _mm512_setzero_ps();
      for (int64_t j = 0; j < count; ++j) top = _mm512_max_ps(top, _mm512_load_ps(scores + j * 16));
      const __m512 factor = _mm512_set1_ps(scale);
      for (int64_t j = 0; j < count; ++j) {
        const __m512 w = exp_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(scores + j * 16), top), factor));
        sum = _mm512_add_ps(sum, w);
        _mm512_store_ps(scores + j * 16, w);
      }
      alignas(64) float sums[16], tops[16];
      _mm512_store_ps(sums, sum);
      _mm512_store_ps(tops, top);
      for (int64_t h = 0; h < groups; h += kMaxHeads) {
        const int64_t some = groups - h < kMaxHeads ? groups - h : kMaxHeads;
        for (int64_t column = 0; column < dim; column += 64) {
          kWeighValues[some](scores + h, values + kv * dim, stride, places, count, dim, column, mixed + h * dim);
        }
      }
      for (int64_t h = 0; h < groups; ++h) {
        const int64_t at = (merged ? row : b) * heads + kv * groups + h;
        const float mass = tops[h] * scale + __builtin_logf(sums[h]);
        if (merged) {
          merge_row(mixed + h * dim, sums[h], mass, dim, merged + at * dim, lse + at);
          continue;
        }
        const __m512 all = _mm512_set1_ps(1.0f / sums[h]);
        for (int64_t d = 0; d < dim; d += 16) {
          store_bf16(out + at * dim + d, _mm512_mul_ps(_mm512_load_ps(mixed + h * dim + d), all));
        }
        lse[at] = mass;
      }
    }
    _mm_free(scores);
  });
}

// Attention of many rows over one run, merged into what the rows have: out [*, heads, dim] and lse [*, heads], float.
// query [*, heads, dim] and they are read from row `begin` on; slots [count] are the run's; row r sees the first
// visible[r] of its keys (all where visible is null). dim a multiple of 32, at most 256.
void reason_attend_run(const bf16* query, const bf16* keys, const bf16* values, const int64_t* slots,
                       const int64_t* visible, float* out, float* lse, int64_t begin, int64_t rows, int64_t count,
                       int64_t heads, int64_t kv_heads, int64_t dim, float scale) {
  const int64_t groups = heads / kv_heads, stride = kv_heads * dim, steps = dim / 32;
  const int64_t pads = (count + 31) / 32, width = 32 * pads, lines = rows * groups, blocks = (lines + 31) / 32;
  const int64_t head_size = width * dim;  // of the packed keys, and of the packed values, of one head
  auto* packed = static_cast<bf16*>(_mm_malloc(static_cast<size_t>(2 * kv_heads * head_size) * sizeof(bf16), 64));
  bf16* packed_values = packed + kv_heads * head_size;
  std::atomic<int64_t> next{0};
  in_threads(threads, [&](const Member& member) {
    auto* scores = static_cast<float*>(_mm_malloc(static_cast<size_t>(32 * width) * sizeof(float), 64));
    auto* weights = static_cast<Input*>(_mm_malloc(static_cast<size_t>(32 * width) * sizeof(Input), 64));
    alignas(64) Input block[32 * 256];
    alignas(64) float mixed[32 * 256];
    float sums[32], shifts[32];
    const auto part = member.part(kv_heads * pads);
    for (int64_t task = part.begin; task < part.end; ++task) {
      const int64_t kv = task / pads, pad = task % pads;
      auto* tiles = reinterpret_cast<uint32_t*>(packed + kv * head_size);
      for (int64_t half = 0; half < 2; ++half) {
        pack_keys(keys + kv * dim, stride, slots, count, dim, 2 * pad + half, tiles);
      }
      pack_values(values + kv * dim, stride, slots, count, dim, pad, packed_values + kv * head_size);
    }
    member.meet();
    Multiplier multiplier;
    for (int64_t task; (task = next.fetch_add(1)) < kv_heads * blocks;) {
      const int64_t kv = task % kv_heads, first = 32 * (blocks - 1 - task / kv_heads);  // what sees most comes first
      const int64_t some = lines - first < 32 ? lines - first : 32;
      int64_t most = 0;
      for (int64_t m = 0; m < 32; ++m) {
        Input* line = block + m * dim;
        if (m >= some) {
          std::memset(line, 0, static_cast<size_t>(dim) * sizeof(Input));
          continue;
        }
        const int64_t row = (first + m) / groups, head = kv * groups + (first + m) % groups;
        Multiplier::copy(query + ((begin + row) * heads + head) * dim, dim, line);
        const int64_t seen = visible ? visible[row] : count;
        most = seen > most ? seen : most;
      }
      if (!most) continue;
      const int64_t used = (most + 31) / 32;
      const bf16* head_keys = packed + kv * head_size;
      const bf16* head_values = packed_values + kv * head_size;
      for (int64_t pad = 0; pad < used; ++pad) {
        const bf16* tiles = head_keys + 2 * pad * steps * 512;
        multiplier.tiles(block, dim, tiles, tiles + steps * kTile, kTile, steps, scores + 32 * pad, width);
      }
      for (int64_t m = 0; m < 32; ++m) {
        const int64_t seen = m >= some ? 0 : visible ? visible[(first + m) / groups] : count;
        if (seen) {
          sums[m] = to_weights(scores + m * width, seen, 32 * used, scale, weights + m * width, shifts + m);
        } else {
          std::memset(weights + m * width, 0, static_cast<size_t>(32 * used) * sizeof(Input));
          sums[m] = 0.0f;
        }
      }
      for (int64_t d = 0; d < dim; d += 32) {
        const bf16* tiles = head_values + d / 16 * 512;
        multiplier.tiles(weights, width, tiles, tiles + kTile, dim / 16 * kTile, used, mixed + d, dim);
      }
      for (int64_t m = 0; m < some; ++m) {
        if (sums[m] == 0.0f) continue;
        const int64_t at = (begin + (first + m) / groups) * heads + kv * groups + (first + m) % groups;
        merge_row(mixed + m * dim, sums[m], shifts[m] + __builtin_logf(sums[m]), dim, out + at * dim, lse + at);
      }
    }
    _mm_free(weights);
    _mm_free(scores);
  });
  _mm_free(packed);
}

// out [rows, 3]: of each row of logits [rows, width] (float where wide, else bf16) the log-sum-exp, the entropy of p =
// softmax(row) in nats, and KL(uniform || p) over the columns that are not -inf. NaN where a row has NaN or +inf, or
// nothing but -inf.
void reason_row_statistics(const void* logits, float* out, int64_t rows, int64_t width, int wide) {
  for_rows(rows, rows > 1, [&](int64_t r) {
    if (wide) {
      row_statistics(static_cast<const float*>(logits) + r * width, width, out + 3 * r);
    } else {
      row_statistics(static_cast<const bf16*>(logits) + r * width, width, out + 3 * r);
    }
  });
}

// Of each row of logits [rows, width] (float where wide, else bf16): its `size` largest values [rows, size] in order and
// their columns, equal ones by column, and masses [rows], the log-sum-exp of scale times the row.
void reason_row_heads(const void* logits, float* values, int64_t* columns, double* masses, int64_t rows, int64_t width,
                      int64_t size, float scale, int wide) {
  for_rows(rows, rows > 1, [&](int64_t r) {
    float* top = values + r * size;
    int64_t* at = columns + r * size;
    if (wide) {
      masses[r] = row_head(static_cast<const float*>(logits) + r * width, width, scale, size, top, at);
    } else {
      masses[r] = row_head(static_cast<const bf16*>(logits) + r * width, width, scale, size, top, at);
    }
  });
}

}  // extern "C"
