fulgur_test(expert_test SOURCES expert/expert_layer_test.cpp DEPENDS fulgur::expert)
fulgur_test(byte_bucket_test SOURCES expert/byte_bucket_test.cpp DEPENDS fulgur::base)
