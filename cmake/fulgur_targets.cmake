# One library target a folder: fulgur_library(wire SOURCES … DEPENDS …) makes fulgur_wire, alias
# fulgur::wire. Includes are always written from the project root: #include "common/base/status.hpp".
function(fulgur_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE" ${ARGN})
  add_library(fulgur_${name} STATIC ${ARG_SOURCES})
  add_library(fulgur::${name} ALIAS fulgur_${name})
  target_include_directories(fulgur_${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(fulgur_${name} PUBLIC ${ARG_DEPENDS} PRIVATE fulgur_options ${ARG_PRIVATE})
endfunction()

# An executable: fulgur_executable(fulgur-router SOURCES … DEPENDS …).
function(fulgur_executable name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE fulgur_options ${ARG_DEPENDS})
endfunction()

# A GoogleTest binary registered with ctest as one test: fulgur_test(name SOURCES … DEPENDS …
# [TIMEOUT seconds] [LABELS …]). FULGUR_SOURCE_DIR and FULGUR_BINARY_DIR name the source tree and
# the folder of built programs for tests that read goldens or start services.
function(fulgur_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS;LABELS" ${ARGN})
  fulgur_executable(${name} SOURCES ${ARG_SOURCES} DEPENDS ${ARG_DEPENDS} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE FULGUR_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             FULGUR_BINARY_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(FULGUR_SANITIZE)
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 5")  # sanitizers cost 3 to 10 times
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()

# Lets a target that spawns actors share fulgur_actor's precompiled CAF headers.
function(fulgur_use_actor_pch target)
  target_precompile_headers(${target} REUSE_FROM fulgur_actor)
endfunction()

# Embeds files: fulgur_embed(sources HEADER … NAMESPACE … TABLE kFiles FILES …) sets `sources` to a
# generated C++ file that defines the table the header declares:
# extern const std::span<const http::EmbeddedFile> kFiles.
function(fulgur_embed result)
  cmake_parse_arguments(ARG "" "HEADER;NAMESPACE;TABLE" "FILES" ${ARGN})
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${ARG_TABLE}.cpp)
  list(TRANSFORM ARG_FILES PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DHEADER=${ARG_HEADER} -DNAMESPACE=${ARG_NAMESPACE}
            -DTABLE=${ARG_TABLE} -DOUTPUT=${output} "-DFILES=${ARG_FILES}"
            -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    DEPENDS ${ARG_FILES} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    VERBATIM)
  set(${result} ${output} PARENT_SCOPE)
endfunction()
