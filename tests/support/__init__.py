"""What tests share: makers of images, DICOM files and data sets, the command line, servers."""
