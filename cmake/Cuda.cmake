# TANDEM_CUDA: ON builds the CUDA backend, or fails naming what is missing; AUTO builds it where nvcc and cuBLASLt
# are installed, but not under sanitizers; OFF does not look for them. Sets TANDEM_CUDA_FOUND.
set(TANDEM_CUDA "AUTO" CACHE STRING "Build the CUDA backend: ON, AUTO (where nvcc is installed) or OFF")
set_property(CACHE TANDEM_CUDA PROPERTY STRINGS ON AUTO OFF)
set(TANDEM_CUDA_FOUND FALSE)
if(NOT TANDEM_CUDA OR (TANDEM_CUDA STREQUAL "AUTO" AND (TANDEM_SANITIZE OR TANDEM_FUZZ)))
  return()
endif()

find_package(CUDAToolkit QUIET)  # also where it is not on the PATH
if(NOT DEFINED ENV{CUDACXX} AND CUDAToolkit_NVCC_EXECUTABLE)
  set(ENV{CUDACXX} ${CUDAToolkit_NVCC_EXECUTABLE})
endif()
set(CMAKE_CUDA_ARCHITECTURES "80;90;100" CACHE STRING "Ampere, Hopper, Blackwell; the fat binary's")
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER AND TARGET CUDA::cublasLt AND TARGET CUDA::cudart_static)
  enable_language(CUDA)
  # CMake before 3.26 does not know that nvcc speaks C++20.
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(TANDEM_CUDA_FOUND TRUE)
elseif(TANDEM_CUDA STREQUAL "AUTO")
  message(STATUS "No CUDA backend: nvcc, cudart and cuBLASLt were not all found")
else()
  message(FATAL_ERROR "TANDEM_CUDA is ${TANDEM_CUDA}, but nvcc, cudart and cuBLASLt were not all found "
                      "(nvcc: ${CMAKE_CUDA_COMPILER}, toolkit: ${CUDAToolkit_ROOT}${CUDAToolkit_BIN_DIR})")
endif()
