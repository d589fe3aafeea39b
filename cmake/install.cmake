# What `cmake --install` puts where: headers, the library, the command, and the two ways to find them
# (find_package(weft) and pkg-config).
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/weft)

install(DIRECTORY include/weft DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(TARGETS weft EXPORT weft-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT weft-targets NAMESPACE weft:: DESTINATION ${package_dir})
# An MPI that the system's linker does not know by itself is found where it was at link time.
set_property(TARGET weft PROPERTY INSTALL_RPATH_USE_LINK_PATH ON)
if(TARGET weft_command)
  set_property(TARGET weft_command PROPERTY INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS weft_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

# A static libweft hands what it stands on to whoever links it. Not as private requirements: those would want the
# others as static libraries too, and theirs, which systems seldom have.
set(WEFT_PC_REQUIRES "")
set(WEFT_PC_LIBS "")
if(NOT BUILD_SHARED_LIBS)
  set(WEFT_PC_REQUIRES "libxxhash libcjson libzmq hwloc ompi-c")
  set(WEFT_PC_LIBS "-pthread -lm")
endif()
file(RELATIVE_PATH WEFT_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})

configure_package_config_file(cmake/weft-config.cmake.in ${PROJECT_BINARY_DIR}/weft-config.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/weft-config-version.cmake COMPATIBILITY SameMinorVersion)
configure_file(cmake/weft.pc.in ${PROJECT_BINARY_DIR}/weft.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/weft-config.cmake ${PROJECT_BINARY_DIR}/weft-config-version.cmake
  DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/weft.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
