// Decodes and resizes crops of JPEG files: only the blocks that a crop needs, row by row.
//
// All functions of libjpeg are those that Pillow uses, and every pixel is Pillow's. Files for which
// this is not certain are left to Pillow: damaged ones, and those of other color spaces.

#include <csetjmp>
#include <cstdint>
#include <vector>

#include "huffman.h"
#include "libjpeg.h"
#include "resample.h"

namespace {

// libjpeg takes two more columns for the color of the last ones that are needed. Rows of MCUs are
// at most 32 pixels high; one more is decoded.
constexpr int kColumnMargin = 4, kRowMargin = 32;

struct Errors : jpeg::ErrorManager {
  std::jmp_buf stop;
  char more[512];  // for a libjpeg with further members
};

void stop(jpeg::Common* image) { std::longjmp(static_cast<Errors*>(image->errors)->stop, 1); }

void stop_at_warning(jpeg::Common* image, int level) {
  if (level < 0) stop(image);
}

// Returns the type of a file's frame: the marker SOF0, SOF1 or another one (ITU-T T.81, table B.1),
// or 0 if its segments are damaged before the frame.
int frame_type(const uint8_t* data, size_t size) {
  for (size_t i = 2; i + 4 <= size && data[i] == 0xFF;) {
    const int marker = data[i + 1];
    const bool is_table = marker == 0xC4 || marker == 0xC8 || marker == 0xCC;
    if (marker >= 0xC0 && marker <= 0xCF && !is_table) return marker;
    i += marker == 0xFF ? 1 : 2 + (data[i + 2] << 8 | data[i + 3]);
  }
  return 0;
}

// What a thread keeps for its next image.
struct Workspace {
  jpeg::HuffmanDecoder huffman;
  Resampler resampler;
  std::vector<uint8_t> row;
};

}  // namespace

// Part of an image to decode. The box is resized to `scaled`, of which the window is made.
struct Crop {
  float left, top, right, bottom;  // box in pixels of the image
  int32_t scaled_width, scaled_height;
  int32_t x, y, width, height;  // window in pixels of the resized box
  int32_t channels;             // of the result: 3 (RGB) or 1 (gray)
  int32_t reduction;            // 1, 2, 4 or 8: the image is decoded at this fraction of its size
  int32_t rows_first;           // order of the directions of resizing
};

// Decodes a crop to `out`, uint8 (height, width, channels). Returns 1, or 0 if Pillow must do it.
extern "C" int flaxres_jpeg_crop(const jpeg::Functions* functions, const uint8_t* data, size_t size,
                                 const Crop* crop, uint8_t* out) {
  const int frame = frame_type(data, size);
  // Baseline, extended and progressive frames with Huffman codes; libjpeg also knows lossless ones.
  if (frame < 0xC0 || frame > 0xC2) return 0;
  thread_local Workspace workspace;
  auto& [huffman, resampler, row] = workspace;
  jpeg::Decompress image{};
  Errors errors;
  image.errors = functions->std_error(&errors);
  errors.error_exit = stop;
  errors.emit_message = stop_at_warning;
  if (setjmp(errors.stop)) {  // no object with a destructor begins after this line
    functions->destroy(&image);
    return 0;
  }
  functions->create(&image, jpeg::kVersion, sizeof image);
  functions->memory_source(&image, data, size);
  functions->read_header(&image, 1);
  const bool is_gray = crop->channels == 1;
  if (image.file_colors != (is_gray ? jpeg::kGray : jpeg::kYcbcr) || image.precision != 8)
    stop(&image);
  image.output_colors = is_gray ? jpeg::kGray : jpeg::kExtRgbx;
  image.scale_numerator = 1, image.scale_denominator = crop->reduction;
  functions->start(&image);
  const bool one_scan = !functions->has_multiple_scans(&image) && !image.arithmetic;
  const bool own_codes = one_scan && !image.restart_interval && huffman.install(image);
  // The end of other files is not looked at, so they are read to their last row.
  const int full_width = image.output_width, full_height = image.output_height;
  const float scale = 1.0f / crop->reduction;
  resampler.columns.set(full_width, crop->left * scale,
                        std::min(crop->right * scale, float(full_width)), crop->scaled_width,
                        crop->x, crop->width);
  resampler.rows.set(full_height, crop->top * scale,
                     std::min(crop->bottom * scale, float(full_height)), crop->scaled_height,
                     crop->y, crop->height);
  unsigned left = 0;
  if (own_codes) {
    left = std::max(0, resampler.columns.first - kColumnMargin);
    unsigned width = std::min(full_width, resampler.columns.last + kColumnMargin) - left;
    functions->crop_columns(&image, &left, &width);
    const int factor = image.num_components == 1 ? 1 : image.max_h_factor;
    const unsigned mcu = factor * image.min_scaled_size;
    huffman.set_columns(left / mcu, (left + width - 1) / mcu);
    const int rows = resampler.rows.first - kRowMargin;
    if (rows > 0) functions->skip_rows(&image, rows);
  }
  for (int& start : resampler.columns.starts) start -= left;
  const int pixel = is_gray ? 1 : 4;
  // `read_rows` writes `output_width` pixels; filters read some more, with weights of 0.
  row.resize(size_t(image.output_width + resampler.columns.taps + 1) * pixel);
  resampler.begin(crop->channels, row.size(), crop->rows_first, out);
  uint8_t* rows[] = {row.data()};
  const int end = own_codes ? resampler.rows.last : full_height;
  while (int(image.next_row) < end) {
    const int number = image.next_row;
    functions->read_rows(&image, rows, 1);
    if (number >= resampler.rows.first && number < resampler.rows.last)
      resampler.add(number, row.data());
  }
  if (!own_codes) functions->finish(&image);  // warns if the end of the file is missing
  functions->destroy(&image);
  return 1;
}

// Version of this interface.
extern "C" int flaxres_jpeg_version() { return 1; }
