# libweft: the objects of every component as one library that exports what carries WEFT_API and nothing else. The
# command and the unit tests link the components themselves, so that they may reach what is hidden here.
option(BUILD_SHARED_LIBS "Build libweft.so; OFF: libweft.a" ON)

get_property(components GLOBAL PROPERTY WEFT_COMPONENTS)
set(objects)
foreach(component IN LISTS components)
  list(APPEND objects $<TARGET_OBJECTS:${component}>)
endforeach()

add_library(weft ${objects})
add_library(weft::weft ALIAS weft)
set_target_properties(weft PROPERTIES
  LINKER_LANGUAGE C
  VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} # before 1.0 a minor version may break the interface
  LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/weft.map)
target_include_directories(weft PUBLIC
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(weft PRIVATE
  $<BUILD_INTERFACE:weft_flags> weft_xxhash weft_cjson weft_zmq weft_hwloc weft_mpi ${weft_nccl} Threads::Threads m)
if(BUILD_SHARED_LIBS)
  target_link_options(weft PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/weft.map)
  if(NOT WEFT_SANITIZE) # the sanitizers' own symbols are found when a program is linked
    target_link_options(weft PRIVATE -Wl,--no-undefined)
  endif()
endif()
