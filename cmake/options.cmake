# What a user may switch, and the compile flags that every target shares.
option(WEFT_CUDA "Build the CUDA kernels and the device transports" OFF)
option(WEFT_TESTS "Build the tests" ON)
option(WEFT_WERROR "Warnings of the compiler are errors" ON)
set(WEFT_SANITIZE "" CACHE STRING "address, undefined or thread: build everything under that sanitizer")

option(WEFT_FUZZ "Build tests/fuzz for libFuzzer; needs clang" OFF)
set(WEFT_CJSON_SOURCE "" CACHE PATH "Folder of cJSON.c: build it in, under the sanitizers, in place of the system's")

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()

add_library(weft_flags INTERFACE)
target_compile_options(weft_flags INTERFACE
  -Wall -Wextra $<$<BOOL:${WEFT_WERROR}>:-Werror> -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-missing-field-initializers
  # Host and device must give the same bytes: no contraction into fused multiply-adds, no fast-math.
  -ffp-contract=off -fno-fast-math)
target_compile_definitions(weft_flags INTERFACE _GNU_SOURCE)
target_include_directories(weft_flags INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
target_link_libraries(weft_flags INTERFACE m)
set(weft_sanitizer_options) # of all that is compiled here
if(WEFT_SANITIZE)
  list(APPEND weft_sanitizer_options -fsanitize=${WEFT_SANITIZE} -fno-omit-frame-pointer
    -Wno-format-truncation -Wno-maybe-uninitialized) # these guess wrong below -O2; the other builds have them
  target_link_options(weft_flags INTERFACE -fsanitize=${WEFT_SANITIZE})
  if(WEFT_SANITIZE MATCHES undefined)
    list(APPEND weft_sanitizer_options -fno-sanitize-recover=all)
  endif()
endif()
if(WEFT_FUZZ)
  list(APPEND weft_sanitizer_options -fsanitize=fuzzer-no-link)
endif()
target_compile_options(weft_flags INTERFACE ${weft_sanitizer_options})
