// What the kernels and the processors' ways to multiply agree on.
//
// A sum over k is taken in float32 and in one order, whatever is computed beside it: so a row's result does not depend
// on the other rows of its batch. Each way to multiply is a type `Input`, which x has to be in, and a class
// `Multiplier`, one per thread and parallel region:
//
//   copy(from, count, to)                     to [count] = from [count] as Input, count a multiple of 16
//   all_of(x, count)                          x [count] as Input, until the thread's next call
//   strip(x, stride, rows, w, steps, c)       c [rows, 32] = x [rows, 32 * steps] times one strip, rows <= 32
//   two_strips(x, stride, rows, w, steps, c)  the same for two adjacent strips and rows <= 16, c [2][32][32]
//   tile(x, stride, w, steps, c)              c [16, 16] = x [16, 32 * steps] times a column of tiles
//   tiles(x, stride, first, second, ahead, steps, c, width)
//                                             c [32, 32], rows `width` apart, = x [32, 32 * steps] times two columns of
//                                             tiles, from one tile to the next of a column `ahead` values
//
// Strides are in values. A tile is [16 pairs of k][16 outputs][2]; a strip is [steps][2 tiles].

#pragma once

#include <cstdint>

namespace {

using bf16 = uint16_t;

constexpr int kTileRows = 16;
constexpr int kStrip = 32;                 // outputs of one strip
constexpr int kBlockRows = 2 * kTileRows;  // rows of x handled together
constexpr int kTile = 512;                 // bf16 values of one tile
constexpr int kStep = 2 * kTile;           // of one strip per 32 inputs

}  // namespace
