// Calls from XLA, through the C interface of its FFI (xla/ffi/api/c_api.h).
//
// XLA's C++ interface for the same, xla/ffi/api/ffi.h, takes a second to compile in each file, and
// half a second more for each type of function. A first run waits for that.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "xla/ffi/api/c_api.h"

// The threads of the XLA runtime that run a call.
class ThreadPool {
 public:
  explicit ThreadPool(const XLA_FFI_CallFrame* frame) : api_(frame->api), context_(frame->ctx) {}

  int64_t num_threads() const {
    int64_t number = 1;
    XLA_FFI_ThreadPool_NumThreads_Args args = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE,
                                               nullptr, context_, &number};
    ignore(api_->XLA_FFI_ThreadPool_NumThreads(&args));
    return number;
  }

  // Runs `function` on one of the threads, or now on this one if there are none.
  template <class Function>
  void schedule(Function function) const {
    XLA_FFI_Task* task = [](void* data) {
      auto* scheduled = static_cast<Function*>(data);
      (*scheduled)();
      delete scheduled;
    };
    auto* data = new Function(std::move(function));
    XLA_FFI_ThreadPool_Schedule_Args args = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr,
                                             context_, task, data};
    if (ignore(api_->XLA_FFI_ThreadPool_Schedule(&args))) task(data);
  }

 private:
  // Frees an error. Returns true if there was one.
  bool ignore(XLA_FFI_Error* error) const {
    if (error == nullptr) return false;
    XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    api_->XLA_FFI_Error_Destroy(&args);
    return true;
  }

  const XLA_FFI_Api* api_;
  decltype(XLA_FFI_CallFrame::ctx) context_;  // jaxlib 0.11.2 renamed its type
};

// Sizes of an array in each dimension.
class Dimensions {
 public:
  Dimensions(const int64_t* sizes, int64_t rank) : sizes_(sizes), rank_(rank) {}
  int64_t operator[](int64_t i) const { return sizes_[i]; }
  int64_t back() const { return sizes_[rank_ - 1]; }
  int64_t size() const { return rank_; }
  // Returns the product of all sizes but the last `count`.
  int64_t product_before_last(int64_t count) const {
    int64_t product = 1;
    for (int64_t i = 0; i < rank_ - count; ++i) product *= sizes_[i];
    return product;
  }
  const int64_t* begin() const { return sizes_; }
  const int64_t* end() const { return sizes_ + rank_; }

 private:
  const int64_t* sizes_;
  int64_t rank_;
};

// An argument or a result of a call. The caller knows the type of its elements.
template <class Value>
class Array {
 public:
  explicit Array(const void* buffer) : buffer_(static_cast<const XLA_FFI_Buffer*>(buffer)) {}
  Value* data() const { return static_cast<Value*>(buffer_->data); }
  Dimensions dimensions() const { return Dimensions(buffer_->dims, buffer_->rank); }
  int64_t element_count() const {
    int64_t count = 1;
    for (const int64_t size : dimensions()) count *= size;
    return count;
  }

 private:
  const XLA_FFI_Buffer* buffer_;
};

// Arguments, results and attributes of a call.
class Call {
 public:
  explicit Call(const XLA_FFI_CallFrame* frame) : frame_(frame) {}

  template <class Value = float>
  Array<Value> array(int64_t i) const {
    return Array<Value>(frame_->args.args[i]);
  }
  // Returns the data of an argument that a call may lack, or null. Such arguments come last.
  template <class Value = float>
  const Value* optional_data(int64_t i) const {
    return i < frame_->args.size ? array<Value>(i).data() : nullptr;
  }
  template <class Value = float>
  Array<Value> result(int64_t i) const {
    return Array<Value>(frame_->rets.rets[i]);
  }
  int64_t integer(const char* name) const { return scalar<int64_t>(name); }
  bool flag(const char* name) const { return scalar<bool>(name); }
  float number(const char* name) const { return scalar<float>(name); }

 private:
  template <class Scalar>
  Scalar scalar(const char* name) const {
    const XLA_FFI_Attrs& attributes = frame_->attrs;
    for (int64_t i = 0; i < attributes.size; ++i) {
      const XLA_FFI_ByteSpan* found = attributes.names[i];
      if (found->len != std::strlen(name) || std::memcmp(found->ptr, name, found->len)) continue;
      return *static_cast<const Scalar*>(
          static_cast<const XLA_FFI_Scalar*>(attributes.attrs[i])->value);
    }
    std::abort();  // the Python code passes all attributes
  }

  const XLA_FFI_CallFrame* frame_;
};

// Handles a call from XLA by function(pool, call). When XLA registers the handler, it asks for the
// version of the interface instead.
template <void function(const ThreadPool&, const Call&)>
static XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame) {
  auto* extension = frame->extension_start;  // jaxlib 0.11.2 renamed its type
  if (extension != nullptr && extension->type == XLA_FFI_Extension_Metadata) {
    auto* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata;
    metadata->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                             XLA_FFI_API_MINOR};
    metadata->traits = 0;
    metadata->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
    return nullptr;
  }
  function(ThreadPool(frame), Call(frame));
  return nullptr;
}

#define FLAXRES_HANDLER(symbol, function)                         \
  extern "C" XLA_FFI_Error* symbol(XLA_FFI_CallFrame* frame) {    \
    return handle<function>(frame);                               \
  }                                                               \
  static_assert(true)  // requires a semicolon
