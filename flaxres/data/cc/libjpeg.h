// Binary interface of libjpeg, version 6b, as libjpeg-turbo has it in every release.
//
// Pillow brings a libjpeg-turbo, but not its headers. These are the same structures, in the order
// of jpeglib.h and jpegint.h; members that are not used here have short names. The library itself
// compares the version and the size of `Decompress` with its own, so another one is refused.

#pragma once

#include <cstddef>
#include <cstdint>

namespace jpeg {

constexpr int kVersion = 62;
constexpr int kComponents = 4, kBlocksInMcu = 10, kTables = 4, kBlock = 64;
enum ColorSpace : int { kUnknown, kGray, kRgb, kYcbcr, kCmyk, kYcck, kExtRgb, kExtRgbx };

typedef int16_t Coefficients[kBlock];  // of a block of 8 x 8 pixels, in natural order

struct Common;
struct Decompress;

struct ErrorManager {
  void (*error_exit)(Common*);
  void (*emit_message)(Common*, int level);
  void (*output_message)(Common*);
  void (*format_message)(Common*, char*);
  void (*reset)(Common*);
  int message;
  union {
    int i[8];
    char s[80];
  } parameters;
  int trace_level;
  long warnings;
  const char* const* messages;
  int last_message;
  const char* const* addon_messages;
  int first_addon, last_addon;
};

struct Source {
  const uint8_t* next;  // next byte of the file
  size_t remaining;
};

struct HuffmanTable {
  uint8_t counts[17];  // number of codes of each length; the first is not used
  uint8_t symbols[256];
  int sent;
};

struct Component {
  int id, index, h_factor, v_factor, quantization;
  int dc_table, ac_table;
  unsigned width_in_blocks, height_in_blocks;
  int scaled_size;
  unsigned width, height;
  int needed, mcu_width, mcu_height, mcu_blocks, mcu_sample_width, last_width, last_height;
  void *quantization_table, *dct_table;
};

struct EntropyDecoder {
  void (*start_pass)(Decompress*);
  int (*decode_mcu)(Decompress*, Coefficients** blocks);
  int insufficient_data;
};

struct Common {
  ErrorManager* errors;
  void *memory, *progress;
  void* client_data;
  int is_decompressor, state;
};

struct Decompress : Common {
  Source* source;
  unsigned image_width, image_height;
  int num_components;
  ColorSpace file_colors, output_colors;
  unsigned scale_numerator, scale_denominator;
  double gamma;
  int buffered, raw, dct_method, fancy_upsampling, block_smoothing, quantize, dither, two_pass;
  int desired_colors, one_pass_quantizer, external_quantizer, two_pass_quantizer;
  unsigned output_width, output_height;
  int out_components, output_components, rows_at_once, num_colors;
  uint8_t** colormap;
  unsigned next_row;
  int input_scan;
  unsigned input_mcu_row;
  int output_scan;
  unsigned output_mcu_row;
  void* coefficient_bits;
  void* quantization_tables[kTables];
  HuffmanTable *dc_tables[kTables], *ac_tables[kTables];
  int precision;
  Component* components;
  int progressive, arithmetic;
  uint8_t arithmetic_tables[3][16];
  unsigned restart_interval;
  int saw_jfif;
  uint8_t jfif[3];
  uint16_t density[2];
  int saw_adobe;
  uint8_t adobe_transform;
  int ccir601;
  void* markers;
  int max_h_factor, max_v_factor, min_scaled_size;
  unsigned mcu_rows;
  uint8_t* range_limit;
  int scan_components;
  Component* scan_component[kComponents];
  unsigned mcus_per_row, mcu_rows_in_scan;
  int blocks_in_mcu;
  int block_component[kBlocksInMcu];  // index in `scan_component` of each block of an MCU
  int first_coefficient, last_coefficient, high_bit, low_bit;
  int unread_marker;
  void *master, *main, *coefficient_controller, *post, *input_controller, *marker;
  EntropyDecoder* entropy;
  void *idct, *upsampler, *color_converter, *color_quantizer;
};

// Functions of the library, by which the caller passes it.
struct Functions {
  ErrorManager* (*std_error)(ErrorManager*);
  void (*create)(Decompress*, int version, size_t size);
  void (*memory_source)(Decompress*, const uint8_t*, unsigned long size);
  int (*read_header)(Decompress*, int require_image);
  int (*has_multiple_scans)(Decompress*);
  int (*start)(Decompress*);
  void (*crop_columns)(Decompress*, unsigned* left, unsigned* width);
  unsigned (*skip_rows)(Decompress*, unsigned rows);
  unsigned (*read_rows)(Decompress*, uint8_t** rows, unsigned max_rows);
  int (*finish)(Decompress*);
  void (*destroy)(Decompress*);
};

}  // namespace jpeg
