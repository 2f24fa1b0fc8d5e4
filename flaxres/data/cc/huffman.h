// Decodes the Huffman codes of baseline JPEG files, in place of libjpeg-turbo's decoder.
//
// Half of the time of decoding a photo goes into its Huffman codes, and a crop needs nearly all of
// them. Here one look-up gives the zeros and the values of up to two codes, and stuffed bytes and
// the end of the data are dealt with once, in advance. Coefficients are the same to the bit.

#pragma once

#include <cstring>
#include <vector>

#include "libjpeg.h"

namespace jpeg {

constexpr int kLookBits = 10;  // longer codes with values are searched for
// Zigzag order: ITU-T T.81, figure A.6.
constexpr uint8_t kZigzag[kBlock] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// Places of coefficients in a block. Those after the last one are reached only by values of 0, and
// in damaged files, for which libjpeg uses the last place too.
struct NaturalOrder {
  uint8_t position[2 * kBlock];
  constexpr NaturalOrder() : position() {
    for (int i = 0; i < 2 * kBlock; ++i) position[i] = i < kBlock ? kZigzag[i] : 63;
  }
};
constexpr NaturalOrder kNatural;

// Value of `size` bits, of which the first one is the sign (ITU-T T.81, figure F.12).
static inline int extend(unsigned bits, int size) {
  return size && bits < 1u << (size - 1) ? int(bits) - (1 << size) + 1 : int(bits);
}

// A code with its value.
struct Entry {
  int16_t value;
  uint8_t zeros;   // coefficients that are 0 before the value
  uint8_t length;  // bits of the code and the value; 0 if they are more than `kLookBits`
};

// One code, or two that follow each other.
struct Pair {
  int16_t value, next_value;
  uint8_t zeros;
  int8_t next_zeros;  // -1 if there is only one code; `next_value` is then `value`
  uint8_t length;     // as in `Entry`
  uint8_t both;       // bits of both codes
};

class Codes {
 public:
  // Reads a table that libjpeg has validated.
  void read(const HuffmanTable& table, bool is_dc) {
    if (known_ && !memcmp(table.counts, table_.counts, sizeof table.counts) &&
        !memcmp(table.symbols, table_.symbols, sizeof table.symbols))
      return;
    known_ = true, table_ = table;
    memset(entries_, 0, sizeof entries_);
    unsigned code = 0;
    for (int length = 1, first = 0; length <= 16; ++length, code <<= 1) {
      offset_[length] = first - int(code);
      for (int i = 0; i < table.counts[length]; ++i, ++code)
        if (length <= kLookBits) fill(code, length, table.symbols[first + i], is_dc);
      first += table.counts[length];
      end_[length] = code << (16 - length);
    }
    if (is_dc) return;
    for (unsigned bits = 0; bits < 1u << kLookBits; ++bits) {
      const Entry first = entries_[bits];
      const Entry next = entries_[(bits << first.length) & ((1 << kLookBits) - 1)];
      const int both = first.length + next.length;
      const bool is_last = first.zeros == kBlock - 1;
      if (first.length && next.length && !is_last && both <= kLookBits)
        pairs_[bits] = {first.value,   next.value,         first.zeros, int8_t(next.zeros),
                        first.length, uint8_t(both)};
      else
        pairs_[bits] = {first.value, first.value, first.zeros, -1, first.length, first.length};
    }
  }

  Entry look_up(uint64_t bits) const { return entries_[bits >> (64 - kLookBits)]; }
  const Pair& look_up_pair(uint64_t bits) const { return pairs_[bits >> (64 - kLookBits)]; }

  // Reads a code and its value of any length. The length of the result is 0 without such a code.
  Entry search(uint64_t bits, bool is_dc) const {
    const unsigned next = unsigned(bits >> 48);
    int length = 1;
    while (length <= 16 && next >= end_[length]) ++length;
    if (length > 16) return Entry{};
    const int index = offset_[length] + int(next >> (16 - length));
    return entry(table_.symbols[index & 255], length, bits << length, is_dc);
  }

 private:
  // Returns the entry of a code; `bits` are those of its value and what follows.
  static Entry entry(uint8_t symbol, int length, uint64_t bits, bool is_dc) {
    const int size = symbol & (is_dc ? 31 : 15);
    int zeros = is_dc ? 0 : symbol >> 4;
    if (!is_dc && !size && zeros < 15) zeros = kBlock - 1;  // the rest of the block is 0
    const int value = size ? extend(unsigned(bits >> (64 - size)), size) : 0;
    return Entry{int16_t(value), uint8_t(zeros), uint8_t(length + size)};
  }

  void fill(unsigned code, int length, uint8_t symbol, bool is_dc) {
    const int rest = kLookBits - length;
    if ((symbol & (is_dc ? 31 : 15)) > rest) return;
    for (unsigned next = 0; next < 1u << rest; ++next)
      entries_[(code << rest | next) & ((1 << kLookBits) - 1)] =
          entry(symbol, length, rest ? uint64_t(next) << (64 - rest) : 0, is_dc);
  }

  bool known_ = false;
  HuffmanTable table_;
  Entry entries_[1 << kLookBits];
  Pair pairs_[1 << kLookBits];  // only for AC codes
  unsigned end_[17];  // of the codes of a length, followed by zeros to 16 bits
  int offset_[17];    // from a code to the index of its symbol
};

// Reads the codes of one scan that has all components, no restarts and nothing but baseline codes.
class HuffmanDecoder {
 public:
  // Takes the place of libjpeg's decoder after `Functions::start`. Returns false, and leaves
  // libjpeg's, if another marker than the end of the image follows the codes, or none.
  bool install(Decompress& image) {
    if (!copy_codes(image.source->next, image.source->remaining)) return false;
    for (int i = 0; i < image.scan_components; ++i) {
      const Component& component = *image.scan_component[i];
      const HuffmanTable* dc = image.dc_tables[component.dc_table];
      const HuffmanTable* ac = image.ac_tables[component.ac_table];
      if (dc == nullptr || ac == nullptr) return false;
      dc_[component.dc_table].read(*dc, true);
      ac_[component.ac_table].read(*ac, false);
      last_dc_[i] = 0;
    }
    for (int i = 0; i < image.blocks_in_mcu; ++i) {
      int index = image.block_component[i];
      const Component& component = *image.scan_component[index];
      blocks_[i] = {&dc_[component.dc_table], &ac_[component.ac_table], &last_dc_[index]};
    }
    next_ = codes_.data(), bits_ = 0, count_ = 0;
    column_ = 0, first_column_ = 0, last_column_ = ~0u;
    image.client_data = this;
    image.entropy->decode_mcu = decode_mcu;
    return true;
  }

  // Coefficients of other columns of MCUs are not needed.
  void set_columns(unsigned first, unsigned last) { first_column_ = first, last_column_ = last; }

 private:
  struct Block {
    const Codes *dc, *ac;
    unsigned* last_dc;
  };

  // Copies the codes of a scan, without the zero that follows every byte 255.
  bool copy_codes(const uint8_t* data, size_t size) {
    codes_.resize(size + kPadding);
    uint8_t* out = codes_.data();
    const uint8_t *p = data, *end = data + size;
    for (;;) {
      auto marker = static_cast<const uint8_t*>(memchr(p, 0xFF, end - p));
      if (!marker || marker + 1 >= end) return false;
      memcpy(out, p, marker - p);
      out += marker - p;
      if (marker[1]) {
        end_ = out;
        memset(out, 0, kPadding);
        return marker[1] == 0xD9;
      }
      *out++ = 0xFF;
      p = marker + 2;
    }
  }

  static int decode_mcu(Decompress* image, Coefficients** blocks) {
    auto& self = *static_cast<HuffmanDecoder*>(image->client_data);
    bool needed = blocks && self.column_ >= self.first_column_ && self.column_ <= self.last_column_;
    bool valid = needed ? self.decode<true>(*image, blocks) : self.decode<false>(*image, blocks);
    if (!valid) image->errors->error_exit(image);
    if (++self.column_ == image->mcus_per_row) self.column_ = 0;
    return 1;
  }

  // Reads one MCU. Returns false if a code does not exist, or after the end of the data.
  template <bool kStore>
  bool decode(Decompress& image, Coefficients** blocks) {
    const uint8_t* next = next_;
    uint64_t bits = bits_;
    int count = count_;
    auto refill = [&] {  // to 56 bits or more
      uint64_t word;
      memcpy(&word, next, 8);
      if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) word = __builtin_bswap64(word);
      bits |= word >> count;
      next += (63 - count) >> 3;
      count |= 56;
    };
    auto drop = [&](int length) { bits <<= length, count -= length; };
    for (int i = 0; i < image.blocks_in_mcu; ++i) {
      const Block& block = blocks_[i];
      refill();
      Entry e = block.dc->look_up(bits);
      if (!e.length && !(e = block.dc->search(bits, true)).length) return false;
      drop(e.length);
      *block.last_dc += unsigned(int(e.value));
      int16_t* out = kStore ? *blocks[i] : nullptr;
      if (kStore) out[0] = int16_t(*block.last_dc);
      const Codes& codes = *block.ac;
      for (int k = 1; k < kBlock;) {
        refill();
        const Pair& pair = codes.look_up_pair(bits);
        if (__builtin_expect(!pair.length, 0)) {
          if (!(e = codes.search(bits, false)).length) return false;
          k += e.zeros;
          if (kStore) out[kNatural.position[k]] = e.value;
          ++k;
          drop(e.length);
          continue;
        }
        k += pair.zeros;
        if (kStore) out[kNatural.position[k]] = pair.value;
        if (++k >= kBlock) {
          drop(pair.length);
          break;
        }
        k += pair.next_zeros;
        if (kStore) out[kNatural.position[k]] = pair.next_value;
        ++k;
        drop(pair.both);
      }
    }
    next_ = next, bits_ = bits, count_ = count;
    return next - count / 8 <= end_;
  }

  static constexpr size_t kPadding = 4096;  // an MCU reads fewer bytes: 10 x 64 codes of 31 bits

  Codes dc_[kTables], ac_[kTables];
  Block blocks_[kBlocksInMcu];
  unsigned last_dc_[kComponents];
  std::vector<uint8_t> codes_;
  const uint8_t *next_, *end_;
  uint64_t bits_;  // the next `count_` bits, and zeros or parts of later bytes
  int count_;
  unsigned column_, first_column_, last_column_;  // of MCUs
};

}  // namespace jpeg
