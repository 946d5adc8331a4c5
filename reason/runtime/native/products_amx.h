// Products by AMX tiles.

#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "products.h"

namespace {

// Asks the operating system for the tiles' state.
bool may_multiply() {
  constexpr int kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

using Input = bf16;  // what x is multiplied as

// Tiles 0, 1: rows 0-15 of C; 2, 3: rows 16-31 of C; 4, 5: x; 6, 7: weights.
class Multiplier {
 public:
  ~Multiplier() {
    if (first_ >= 0) _tile_release();
  }

  static void copy(const bf16* from, int64_t count, Input* to) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(bf16));
  }

  static const Input* all_of(const bf16* x, int64_t) { return x; }

  void strip(const Input* x, int64_t stride, int64_t rows, const bf16* w, int64_t steps, float* c) {
    configure(rows < kTileRows ? rows : kTileRows, rows > kTileRows ? rows - kTileRows : 0);
    if (rows > kTileRows) {
      multiply<true>(x, stride, w, steps, c);
    } else {
      multiply<false>(x, stride, w, steps, c);
    }
  }

  // x is read half as often as by two calls of strip.
  void two_strips(const Input* x, int64_t stride, int64_t rows, const bf16* w, int64_t steps, float* c) {
    configure(rows, rows);
    const bf16* other = w + steps * kStep;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; ++k) {
      fetch(w + (k + 4) * kStep);
      fetch(other + (k + 4) * kStep);
      _tile_loadd(4, x + 32 * k, 2 * stride);
      _tile_loadd(6, w + k * kStep, 64);
      _tile_loadd(7, w + k * kStep + kTile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(6, other + k * kStep, 64);
      _tile_loadd(7, other + k * kStep + kTile, 64);
      _tile_dpbf16ps(2, 4, 6);
      _tile_dpbf16ps(3, 4, 7);
    }
    float* second = c + kBlockRows * kStrip;
    _tile_stored(0, c, 4 * kStrip);
    _tile_stored(1, c + 16, 4 * kStrip);
    _tile_stored(2, second, 4 * kStrip);
    _tile_stored(3, second + 16, 4 * kStrip);
  }

  void tile(const Input* x, int64_t stride, const bf16* w, int64_t steps, float* c) {
    configure(kTileRows, kTileRows);
    _tile_zero(0);
    for (int64_t k = 0; k < steps; ++k) {
      _tile_loadd(4, x + 32 * k, 2 * stride);
      _tile_loadd(6, w + kTile * k, 64);
      _tile_dpbf16ps(0, 4, 6);
    }
    _tile_stored(0, c, 64);
  }

  void tiles(const Input* x, int64_t stride, const bf16* first, const bf16* second, int64_t ahead, int64_t steps,
             float* c, int64_t width) {
    configure(kTileRows, kTileRows);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; ++k) {
      _tile_loadd(4, x + 32 * k, 2 * stride);
      _tile_loadd(5, x + kTileRows * stride + 32 * k, 2 * stride);
      _tile_loadd(6, first + k * ahead, 64);
      _tile_loadd(7, second + k * ahead, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 4 * width);
    _tile_stored(1, c + 16, 4 * width);
    _tile_stored(2, c + kTileRows * width, 4 * width);
    _tile_stored(3, c + kTileRows * width + 16, 4 * width);
  }

 private:
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t colsb[16] = {};
    uint8_t rows[16] = {};
  };

  void configure(int64_t first, int64_t second) {
    if (first == first_ && second == second_) return;
    Config config;
    const int64_t rows[8] = {first, first, second, second, first, second, kTileRows, kTileRows};
    for (int t = 0; t < 8; ++t) {
      config.rows[t] = static_cast<uint8_t>(rows[t]);
      config.colsb[t] = rows[t] ? 64 : 0;
    }
    _tile_loadconfig(&config);
    first_ = first;
    second_ = second;
  }

  static void fetch(const bf16* step) {
    for (int line = 0; line < 32; ++line) _mm_prefetch(reinterpret_cast<const char*>(step + 32 * line), _MM_HINT_T0);
  }

  template <bool kTwo>
  void multiply(const Input* x, int64_t stride, const bf16* w, int64_t steps, float* c) {
    _tile_zero(0);
    _tile_zero(1);
    if (kTwo) {
      _tile_zero(2);
      _tile_zero(3);
    }
    const Input* second = x + kTileRows * stride;
    for (int64_t k = 0; k < steps; ++k) {
      fetch(w + (k + 4) * kStep);
      _tile_loadd(4, x + 32 * k, 2 * stride);
      _tile_loadd(6, w + k * kStep, 64);
      _tile_loadd(7, w + k * kStep + kTile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (kTwo) {
        _tile_loadd(5, second + 32 * k, 2 * stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, c, 4 * kStrip);
    _tile_stored(1, c + 16, 4 * kStrip);
    if (kTwo) {
      _tile_stored(2, c + kTileRows * kStrip, 4 * kStrip);
      _tile_stored(3, c + kTileRows * kStrip + 16, 4 * kStrip);
    }
  }

  int64_t first_ = -1, second_ = -1;
};

}  // namespace
