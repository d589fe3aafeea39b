# CUDA: the compiler, the flags of every .cu file, the kernels of the device as one more component of libweft, NCCL.
# Included before the components when WEFT_CUDA is on; tests/cuda includes it too when it is built by itself.
#
# Nothing links libcuda: what is needed of the driver is asked of the runtime, so that programs start without one.
get_filename_component(weft_cuda_root ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(CMAKE_CUDA_COMPILER nvcc PATHS /usr/local/cuda/bin) # what is in PATH comes first
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90)
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.5 REQUIRED)

# What every target with .cu files compiles with. Host and device must give the same bytes: no contraction into fused
# multiply-adds, subnormals kept, true division; where kernels want a fused one they say so.
function(weft_cuda_target target)
  set_target_properties(${target} PROPERTIES
    CUDA_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
  target_include_directories(${target} PRIVATE ${weft_cuda_root} ${weft_cuda_root}/include)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:
    -std=c++20 # said here: CMake 3.25 does not know that nvcc 13 can
    -fmad=false -ftz=false -prec-div=true -prec-sqrt=true --Werror=all-warnings
    -Xcompiler=-Wall,-Wextra,-ffp-contract=off>)
endfunction()

file(GLOB weft_cuda_sources CONFIGURE_DEPENDS ${weft_cuda_root}/kernels/cuda/*.cu)
add_library(weft_kernels_cuda STATIC ${weft_cuda_sources})
weft_cuda_target(weft_kernels_cuda)
target_link_libraries(weft_kernels_cuda PUBLIC CUDA::cudart_static)
set_property(GLOBAL APPEND PROPERTY WEFT_COMPONENTS weft_kernels_cuda)
set(weft_cuda_kernels weft_kernels_cuda)

if(TARGET weft_flags) # part of weft, not tests/cuda by itself
  find_package(NCCL 2.27 REQUIRED)
  set(weft_nccl NCCL::NCCL CUDA::cudart_static)
  target_compile_definitions(weft_flags INTERFACE WEFT_HAVE_CUDA)
endif()
