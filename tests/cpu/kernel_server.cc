// Runs kernels on request, without XLA: reads calls from standard input, writes results to standard
// output. It is built with the kernels for another instruction set and run in an emulator.
//
// A call is a line of words: the symbol of the kernel, the number of arguments, results and
// attributes, for each argument and result "dtype rank dimension...", for each attribute "name type
// value"; then the bytes of the arguments. The answer is the bytes of the results.

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "xla/ffi/api/c_api.h"

constexpr int kThreads = 2;

static XLA_FFI_Error* fail(XLA_FFI_Error_Create_Args* args) {
  std::fprintf(stderr, "error: %s\n", args->message);
  std::exit(1);
}

static XLA_FFI_Error* schedule(XLA_FFI_ThreadPool_Schedule_Args* args) {
  std::thread(args->task, args->data).detach();
  return nullptr;
}

static XLA_FFI_Error* num_threads(XLA_FFI_ThreadPool_NumThreads_Args* args) {
  *args->num_threads = kThreads;
  return nullptr;
}

struct Array {
  XLA_FFI_Buffer buffer = {};
  std::vector<int64_t> dimensions;
  std::vector<char> memory;

  void read_shape() {
    std::string dtype;
    size_t rank;
    std::cin >> dtype >> rank;
    const bool is_float = dtype == "float32";
    size_t bytes = is_float ? 4 : 2;
    dimensions.resize(rank);
    for (int64_t& dimension : dimensions) std::cin >> dimension, bytes *= dimension;
    memory.resize(bytes);
    buffer.struct_size = XLA_FFI_Buffer_STRUCT_SIZE;
    buffer.dtype = is_float ? XLA_FFI_DataType_F32 : XLA_FFI_DataType_BF16;
    buffer.data = memory.data();
    buffer.rank = rank;
    buffer.dims = dimensions.data();
  }
};

struct Attribute {
  std::string name, type;
  int64_t integer = 0;
  float number = 0;
  bool flag = false;
  XLA_FFI_ByteSpan span = {};
  XLA_FFI_Scalar scalar = {};

  void read() {
    std::cin >> name >> type;
    if (type == "int") {
      std::cin >> integer;
      scalar = {XLA_FFI_DataType_S64, &integer};
    } else if (type == "bool") {
      std::cin >> flag;
      scalar = {XLA_FFI_DataType_PRED, &flag};
    } else {
      std::cin >> number;
      scalar = {XLA_FFI_DataType_F32, &number};
    }
    span = {name.data(), name.size()};
  }
};

template <class Element>
static std::vector<void*> pointers(std::vector<Element>& elements) {
  std::vector<void*> result;
  for (Element& element : elements) result.push_back(&element.buffer);
  return result;
}

int main() {
  XLA_FFI_Api api = {};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = fail;
  api.XLA_FFI_ThreadPool_Schedule = schedule;
  api.XLA_FFI_ThreadPool_NumThreads = num_threads;
  std::string symbol;
  size_t num_arguments, num_results, num_attributes;
  while (std::cin >> symbol >> num_arguments >> num_results >> num_attributes) {
    std::vector<Array> arguments(num_arguments), results(num_results);
    std::vector<Attribute> attributes(num_attributes);
    for (Array& argument : arguments) argument.read_shape();
    for (Array& result : results) result.read_shape();
    for (Attribute& attribute : attributes) attribute.read();
    std::cin.get();  // the end of the line
    for (Array& a : arguments) std::cin.read(a.memory.data(), a.memory.size());

    std::vector<void*> args = pointers(arguments), rets = pointers(results), attrs;
    std::vector<XLA_FFI_ByteSpan*> names;
    for (Attribute& attribute : attributes)
      attrs.push_back(&attribute.scalar), names.push_back(&attribute.span);
    std::vector<XLA_FFI_ArgType> arg_types(num_arguments, XLA_FFI_ArgType_BUFFER);
    std::vector<XLA_FFI_RetType> ret_types(num_results, XLA_FFI_RetType_BUFFER);
    std::vector<XLA_FFI_AttrType> attr_types(num_attributes, XLA_FFI_AttrType_SCALAR);
    XLA_FFI_CallFrame frame = {};
    frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
    frame.api = &api;
    frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
    frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, int64_t(num_arguments), arg_types.data(),
                  args.data()};
    frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, int64_t(num_results), ret_types.data(),
                  rets.data()};
    frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, int64_t(num_attributes),
                   attr_types.data(), names.data(), attrs.data()};
    auto* kernel = reinterpret_cast<XLA_FFI_Handler*>(dlsym(RTLD_DEFAULT, symbol.c_str()));
    if (kernel == nullptr) {
      std::fprintf(stderr, "error: no symbol %s\n", symbol.c_str());
      return 1;
    }
    kernel(&frame);
    for (const Array& result : results) std::cout.write(result.memory.data(), result.memory.size());
    std::cout.flush();
  }
}
